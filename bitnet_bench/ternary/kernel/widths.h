/* Includes TEMPLATE once for each width of vectors, compiled for processors that have it. */
#if defined(WIDER_VECTORS)
#pragma GCC push_options
#pragma GCC target("avx512f")
#define VECTOR 16
#include TEMPLATE
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define VECTOR 8
#include TEMPLATE
#pragma GCC pop_options
#define OF_WIDTH(name) (vector_width() == 16 ? name##16 : vector_width() == 8 ? name##8 : name##4)
#else
#define OF_WIDTH(name) name##4 /* of the functions of a template those for this processor */
#endif
#define VECTOR 4
#include TEMPLATE
