"""The recipes that the package ships: `bitnet-bench run NAME` finds them by their names."""
