"""Any build of libllama, called through ctypes: the wheel's, bitnet.cpp's, or one of the user's own."""
