// Linear layers of the base: y = activation(x·wᵀ + bias), in float32, bfloat16 or int8.
#pragma once
#include <cmath>

#include "product.h"
#include "threads.h"

template <class Number>
struct FormatOf;
template <>
struct FormatOf<float> {
  using type = Float32;
};
template <>
struct FormatOf<bfloat16> {
  using type = BFloat16;
};

constexpr long kTile = 48;  // tokens that one thread takes at once

// How the bytes of one token's vector stand for numbers: number = scale · (byte - zero).
struct Quantised {
  float scale, zero;
};

// The least and the largest among n numbers and zero.
struct Range {
  float least, most;
};

inline Range range(const float* x, long n) {
  __m512 least = _mm512_setzero_ps(), most = _mm512_setzero_ps();
  for (long i = 0; i < n; i += 16) {
    least = _mm512_min_ps(least, load(x + i));
    most = _mm512_max_ps(most, load(x + i));
  }
  return {_mm512_reduce_min_ps(least), _mm512_reduce_max_ps(most)};
}

// Bits of bfloat16 numbers are ordered as signed integers if one is above zero, and as unsigned ones, reversed, if one
// is below.
inline Range range(const bfloat16* x, long n) {
  __m512i least = _mm512_setzero_si512(), most = _mm512_setzero_si512();
  for (long i = 0; i < n; i += 32) {
    const __m512i bits = _mm512_maskz_loadu_epi16(n - i >= 32 ? ~0u : 0xffffu, x + i);
    least = _mm512_max_epu16(least, bits);
    most = _mm512_max_epi16(most, bits);
  }
  const auto even = [](__m512i bits) { return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16)); };
  const auto odd = [](__m512i bits) {
    return _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(0xffff0000)));
  };
  const float low = _mm512_reduce_min_ps(_mm512_min_ps(even(least), odd(least)));
  return {low < 0 ? low : 0, _mm512_reduce_max_ps(_mm512_max_ps(even(most), odd(most)))};
}

// A vector as bytes, from its least number to its largest. Zero is among them, and exact.
template <class Number>
Quantised quantise(const Number* x, long n, uint8_t* out) {
  const auto [least, most] = range(x, n);
  const float whole = most - least, by = whole > 0 ? 255.f / whole : 0.f, zero = std::nearbyint(-least * by);
  for (long i = 0; i < n; i += 16) {
    const __m512 byte = _mm512_fmadd_ps(load(x + i), _mm512_set1_ps(by), _mm512_set1_ps(zero));
    const __m512i step = _mm512_max_epi32(_mm512_cvtps_epi32(byte), _mm512_setzero_si512());
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), _mm512_cvtusepi32_epi8(step));
  }
  return {whole / 255.f, zero};
}

struct Linear {
  const char* packed;
  const float* bias;   // [n]
  const float* scale;  // int8 alone, [n]: what one step of a weight is worth
  const float* total;  // int8 alone, [n]: the sum of the row's weights
  int64_t n, k;
};

// How sums become y: plus what was laid down there before, if so, and through an activation.
struct Finish {
  Activation activation;
  bool onto;
};

template <class Number>
void finish(const Finish& how, __m512 sum, Number* y) {
  store(y, activated(how.onto ? _mm512_add_ps(sum, load(y)) : sum, how.activation));
}

// Tokens [from, to) of x [·, k], columns [left, right) of y [·, n].
template <class Number>
void linear_float(const Linear& w, const Finish& how, const Number* x, Number* y, long from, long to, long left,
                  long right) {
  using Format = typename FormatOf<Number>::type;
  product<Format>(to - from, x + from * w.k, w.k, w.packed, w.k / Format::step, w.n, left, right,
                  [&](long column) {
                    const __m512 bias = load(w.bias + column);
                    Number* to = y + from * w.n + column;
                    return [=, &w, &how](long row, __m512 sum) {
                      finish(how, _mm512_add_ps(sum, bias), to + row * w.n);
                    };
                  });
}

template <class Number>
void linear_int8(const Linear& w, const Finish& how, const Number* x, Number* y, long from, long to, long left,
                 long right) {
  const long m = to - from;
  auto* tokens = static_cast<Quantised*>(scratch.room(m * (w.k + sizeof(Quantised))));
  auto* bytes = reinterpret_cast<uint8_t*>(tokens + m);
  for (long r = 0; r < m; r++) tokens[r] = quantise(x + (from + r) * w.k, w.k, bytes + r * w.k);
  product<Int8>(m, bytes, w.k, w.packed, w.k / Int8::step, w.n, left, right, [&](long column) {
    const __m512 scale = load(w.scale + column), total = load(w.total + column), bias = load(w.bias + column);
    Number* to = y + from * w.n + column;
    return [=, &w, &how](long row, __m512i sum) {
      const __m512 exact = _mm512_fnmadd_ps(_mm512_set1_ps(tokens[row].zero), total, _mm512_cvtepi32_ps(sum));
      const __m512 by = _mm512_mul_ps(scale, _mm512_set1_ps(tokens[row].scale));
      finish(how, _mm512_fmadd_ps(exact, by, bias), to + row * w.n);
    };
  });
}

template <class Number>
void linear(const Linear& w, const Finish& how, const Number* x, Number* y, long tokens) {
  const long down = pieces(tokens, kTile);
  const long tile = ((tokens + down - 1) / down + kRows - 1) / kRows * kRows;
  const long tiles = (tokens + tile - 1) / tile;
  const long panels = (w.n + kPanel - 1) / kPanel;
  const long across = tiles >= workers() ? 1 : pieces(panels, (panels * tiles + workers() - 1) / workers());
  const long stripe = (panels + across - 1) / across * kPanel;
  share(tiles * across, [&](long i) {
    const long from = i / across * tile, to = from + tile < tokens ? from + tile : tokens;
    const long left = i % across * stripe, right = left + stripe < w.n ? left + stripe : w.n;
    if (left >= right) return;
    if (w.scale)
      linear_int8(w, how, x, y, from, to, left, right);
    else
      linear_float(w, how, x, y, from, to, left, right);
  });
}
