"""What every training backend shares: objectives, order of the data, schedules, adapters, folders, and the monitor."""
