/* An empty Python module: the functions are reached through ctypes, which needs a file to open. */
#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "_library", .m_size = -1};

PyMODINIT_FUNC PyInit__library(void) { return PyModule_Create(&definition); }
