// Products of a few rows with a packed matrix.
//
// A matrix [n, k] is packed in panels of kPanel of its rows (the last one narrower, a multiple of 16): for each step
// along k, the numbers of that step of all the panel's rows, side by side. A step is four bytes: one float32, two
// bfloat16, or as many integers as fit. So always sixteen words hold a step of sixteen rows, and a product reads the
// panel from its start to its end.
#pragma once
#include <cstring>

#include "vectors.h"

struct Float32 {
  using Number = float;
  using Sum = Floats;
  static Sum add(Sum sum, Words a, Words b) { return fmadd(as_floats(a), as_floats(b), sum); }
};

struct BFloat16 {
  using Number = bfloat16;
  using Sum = Floats;
  static Sum add(Sum sum, Words a, Words b) { return add_bfloat16(sum, a, b); }
};

// Integers: no token's number is larger than kSteps, nor below zero if it is unsigned; 32 bits hold every sum
// (laying.h).
struct Int16 {
  using Number = int16_t;
  using Weight = int16_t;
  using Sum = Words;
  static constexpr int kSteps = 4095;
  static constexpr bool kSigned = true;
  static Sum add(Sum sum, Words a, Words b) { return add_int16(sum, a, b); }
};

#ifdef __AVX512F__
struct Int8 {
  using Number = uint8_t;
  using Weight = int8_t;
  using Sum = Words;
  static constexpr int kSteps = 255;
  static constexpr bool kSigned = false;
  static Sum add(Sum sum, Words a, Words b) { return add_int8(sum, a, b); }
};
#else
using Int8 = Int16;  // never asked for (binding.py): products of bytes would be cut off where two are added
#endif

template <class Format>
constexpr long kStep = 4 / sizeof(typename Format::Number);  // numbers

constexpr int kAcross = kPanel / 16;  // vectors

inline long padded(long n) { return (n + 15) / 16 * 16; }

// How many vectors a panel that begins with column `from` of n has.
inline int vectors(long n, long from) { return static_cast<int>(n - from >= kPanel ? kAcross : padded(n - from) / 16); }

// What a product fetches beside it: nothing.
struct NothingAhead {
  void pull() {}
};

template <class Format, int rows, int vectors, class Fetch>
inline void multiply(const typename Format::Number* a, long stride, const char* panel, long steps,
                     typename Format::Sum* out, Fetch& ahead) {
  typename Format::Sum sums[rows][vectors];
#pragma GCC unroll 6
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) sums[r][v] = typename Format::Sum{};
  for (long s = 0; s < steps; s++, panel += 64 * vectors, a += kStep<Format>) {
    Words b[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) b[v] = load_words(panel + 64 * v);
    ahead.pull();
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
      int32_t step;
      std::memcpy(&step, a + r * stride, 4);
      const Words same = all(step);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; v++) sums[r][v] = Format::add(sums[r][v], same, b[v]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) out[kAcross * r + v] = sums[r][v];
}

// Up to kRows rows times one panel: sums [rows][kAcross], of which the first `wide` are set.
template <class Format, int vectors = kAcross, class Fetch>
void multiply(int rows, const typename Format::Number* a, long stride, const char* panel, long steps, int wide,
              typename Format::Sum* out, Fetch& ahead) {
  if constexpr (vectors > 1)
    if (wide < vectors) return multiply<Format, vectors - 1>(rows, a, stride, panel, steps, wide, out, ahead);
  switch (rows) {
    case 1: return multiply<Format, 1, vectors>(a, stride, panel, steps, out, ahead);
    case 2: return multiply<Format, 2, vectors>(a, stride, panel, steps, out, ahead);
    case 3: return multiply<Format, 3, vectors>(a, stride, panel, steps, out, ahead);
    case 4: return multiply<Format, 4, vectors>(a, stride, panel, steps, out, ahead);
    case 5: return multiply<Format, 5, vectors>(a, stride, panel, steps, out, ahead);
    default: return multiply<Format, kRows, vectors>(a, stride, panel, steps, out, ahead);
  }
}

// Every row of a [m, k] times the panels of a packed [n, k] that begin with rows [from, to) of it. `columns(column)`
// gives what takes these sixteen columns of the product, row by row: a call with (row, sum).
template <class Format, class Columns, class Fetch = NothingAhead>
inline void product(long m, const typename Format::Number* a, long stride, const char* packed, long k, long n,
                    long from, long to, Columns columns, Fetch&& ahead = {}) {
  const long steps = k / kStep<Format>;
  typename Format::Sum sums[kRows * kAcross];
  for (long column = from; column < to; column += kPanel) {
    const int wide = vectors(n, column);
    const char* panel = packed + column * steps * 4;
    for (long row = 0; row < m; row += kRows) {
      const int rows = static_cast<int>(m - row < kRows ? m - row : kRows);
      multiply<Format>(rows, a + row * stride, stride, panel, steps, wide, sums, ahead);
      for (int v = 0; v < wide; v++) {
        const auto take = columns(column + 16 * v);
        for (int r = 0; r < rows; r++) take(row + r, sums[kAcross * r + v]);
      }
    }
  }
}
