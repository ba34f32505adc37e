def find_number(output):
    return None
