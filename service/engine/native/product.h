// Products of a few rows with a packed matrix.
//
// A matrix [n, k] is packed in panels of 64 of its rows (the last one narrower, a multiple of 16): for each step along
// k, the numbers of that step of all the panel's rows, side by side. A step is one float32, two bfloat16 or four int8,
// so that always one vector holds a step of sixteen rows, and a product reads the panel from its start to its end.
#pragma once
#include <cstring>

#include "vectors.h"

constexpr long kPanel = 64;  // rows of the matrix, columns of the product
constexpr int kRows = 6;     // rows multiplied at once: with four vectors of a panel, 24 sums in 32 registers

struct Float32 {
  using Number = float;
  using Sum = __m512;
  static constexpr long step = 1;
  static Sum zero() { return _mm512_setzero_ps(); }
  static Sum add(Sum sum, __m512i a, __m512i b) {
    return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
  }
};

struct BFloat16 {
  using Number = bfloat16;
  using Sum = __m512;
  static constexpr long step = 2;
  static Sum zero() { return _mm512_setzero_ps(); }
  static Sum add(Sum sum, __m512i a, __m512i b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
};

struct Int8 {
  using Number = uint8_t;
  using Sum = __m512i;
  static constexpr long step = 4;
  static Sum zero() { return _mm512_setzero_si512(); }
  static Sum add(Sum sum, __m512i a, __m512i b) { return _mm512_dpbusd_epi32(sum, a, b); }
};

inline long padded(long n) { return (n + 15) / 16 * 16; }

// How many vectors a panel that begins with column `from` of n has.
inline int vectors(long n, long from) { return static_cast<int>(n - from >= kPanel ? 4 : padded(n - from) / 16); }

template <class Format, int rows, int vectors>
inline void multiply(const typename Format::Number* a, long stride, const char* panel, long steps,
                     typename Format::Sum* out) {
  typename Format::Sum sums[rows][vectors];
#pragma GCC unroll 6
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) sums[r][v] = Format::zero();
  for (long s = 0; s < steps; s++, panel += 64 * vectors, a += Format::step) {
    __m512i b[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) b[v] = _mm512_loadu_si512(panel + 64 * v);
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
      int32_t step;
      std::memcpy(&step, a + r * stride, 4);
      const __m512i all = _mm512_set1_epi32(step);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; v++) sums[r][v] = Format::add(sums[r][v], all, b[v]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) out[4 * r + v] = sums[r][v];
}

template <class Format, int vectors>
inline void multiply(int rows, const typename Format::Number* a, long stride, const char* panel, long steps,
                     typename Format::Sum* out) {
  switch (rows) {
    case 1: return multiply<Format, 1, vectors>(a, stride, panel, steps, out);
    case 2: return multiply<Format, 2, vectors>(a, stride, panel, steps, out);
    case 3: return multiply<Format, 3, vectors>(a, stride, panel, steps, out);
    case 4: return multiply<Format, 4, vectors>(a, stride, panel, steps, out);
    case 5: return multiply<Format, 5, vectors>(a, stride, panel, steps, out);
    default: return multiply<Format, 6, vectors>(a, stride, panel, steps, out);
  }
}

// Up to kRows rows times one panel: sums [rows][4], of which the first `vectors` are set.
template <class Format>
void multiply(int rows, const typename Format::Number* a, long stride, const char* panel, long steps, int vectors,
              typename Format::Sum* out) {
  switch (vectors) {
    case 1: return multiply<Format, 1>(rows, a, stride, panel, steps, out);
    case 2: return multiply<Format, 2>(rows, a, stride, panel, steps, out);
    case 3: return multiply<Format, 3>(rows, a, stride, panel, steps, out);
    default: return multiply<Format, 4>(rows, a, stride, panel, steps, out);
  }
}

// Every row of a [m, k] times the panels of a packed [n, k] that begin with rows [from, to) of it. `columns(column)`
// gives what takes these sixteen columns of the product, row by row: a call with (row, sum).
template <class Format, class Columns>
inline void product(long m, const typename Format::Number* a, long stride, const char* packed, long steps, long n,
                    long from, long to, Columns columns) {
  typename Format::Sum sums[kRows * 4];
  for (long column = from; column < to; column += kPanel) {
    const int wide = vectors(n, column);
    const char* panel = packed + column * steps * 4;
    for (long row = 0; row < m; row += kRows) {
      const int rows = static_cast<int>(m - row < kRows ? m - row : kRows);
      multiply<Format>(rows, a + row * stride, stride, panel, steps, wide, sums);
      for (int v = 0; v < wide; v++) {
        const auto take = columns(column + 16 * v);
        for (int r = 0; r < rows; r++) take(row + r, sums[4 * r + v]);
      }
    }
  }
}
