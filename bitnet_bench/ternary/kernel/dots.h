/* Expands F(1) ... F(n): one specialised function for each number of activation rows. */
#pragma once
#define EACH4(F) F(1) F(2) F(3) F(4)
#define EACH8(F) EACH4(F) F(5) F(6) F(7) F(8)
#define EACH12(F) EACH8(F) F(9) F(10) F(11) F(12)
#define INLINE static inline __attribute__((always_inline))
