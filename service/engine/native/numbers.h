// Numbers that C++ has no type for, as they lie in memory.
#pragma once
#include <cstdint>

struct bfloat16 {
  uint16_t bits;
};

struct float16 {
  uint16_t bits;
};

// The least and the largest among some numbers and zero.
struct Range {
  float least, most;
};
