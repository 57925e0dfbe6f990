// Sixteen numbers at a time, as one vector of AVX-512; avx2.h has the same names.
#pragma once
#include <immintrin.h>

#include "numbers.h"

using Floats = __m512;  // sixteen float32
using Words = __m512i;  // sixteen times four bytes
using Mask = __mmask16;

// How a product is cut: with so many rows at once and four vectors of a panel, 24 sums in 32 registers.
constexpr int kRows = 6;
constexpr long kPanel = 64;  // rows of the matrix, columns of the product

inline Floats all(float x) { return _mm512_set1_ps(x); }
inline Words all(int32_t x) { return _mm512_set1_epi32(x); }
inline Floats as_floats(Words bits) { return _mm512_castsi512_ps(bits); }
inline Floats converted(Words numbers) { return _mm512_cvtepi32_ps(numbers); }

// The first `n` of sixteen.
inline Mask first(long n) { return n >= 16 ? 0xffff : static_cast<Mask>((1u << n) - 1); }

inline Floats load(const float* from) { return _mm512_loadu_ps(from); }
inline Floats load(const bfloat16* from) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline Words load_words(const char* from) { return _mm512_loadu_si512(from); }

inline Floats load(const float* from, Mask some) { return _mm512_maskz_loadu_ps(some, from); }
inline Floats load(const bfloat16* from, Mask some) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, from)), 16));
}
inline Floats load(const float16* from, Mask some) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(some, from)); }

inline __m256i to_bfloat16(Floats x) { return (__m256i)_mm512_cvtneps_pbh(x); }

inline void store(float* to, Floats x) { _mm512_storeu_ps(to, x); }
inline void store(bfloat16* to, Floats x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), to_bfloat16(x)); }
inline void store(float* to, Floats x, Mask some) { _mm512_mask_storeu_ps(to, some, x); }
inline void store(bfloat16* to, Floats x, Mask some) { _mm256_mask_storeu_epi16(to, some, to_bfloat16(x)); }
inline void store_past_cache(float* to, Floats x) { _mm512_stream_ps(to, x); }

// Each number rounded; those that do not fit become the nearest that does.
inline void store_rounded(uint8_t* to, Floats x) {
  const __m512i whole = _mm512_max_epi32(_mm512_cvtps_epi32(x), _mm512_setzero_si512());
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtusepi32_epi8(whole));
}
inline void store_rounded(int8_t* to, Floats x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(x)));
}
inline void store_rounded(int16_t* to, Floats x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(x)));
}

// a·b + c, a·b - c and c - a·b.
inline Floats fmadd(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Floats fmsub(Floats a, Floats b, Floats c) { return _mm512_fmsub_ps(a, b, c); }
inline Floats fnmadd(Floats a, Floats b, Floats c) { return _mm512_fnmadd_ps(a, b, c); }

inline Floats min(Floats a, Floats b) { return _mm512_min_ps(a, b); }
inline Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }
inline Floats max(Floats a, Floats b, Mask some) { return _mm512_mask_max_ps(a, some, a, b); }  // a elsewhere
inline Floats only(Mask some, Floats x) { return _mm512_maskz_mov_ps(some, x); }                // zero elsewhere
inline Floats absolute(Floats x) { return _mm512_abs_ps(x); }
inline Floats rounded(Floats x) { return _mm512_roundscale_ps(x, 0); }            // to a whole number
inline Floats times_power(Floats x, Floats n) { return _mm512_scalef_ps(x, n); }  // x·2ⁿ, for whole n

inline float sum(Floats x) { return _mm512_reduce_add_ps(x); }
inline float least(Floats x) { return _mm512_reduce_min_ps(x); }
inline float most(Floats x) { return _mm512_reduce_max_ps(x); }

// Of a table of sixteen, those that whole numbers from 0 to 15 name.
inline Floats pick(const float* table, Floats places) {
  return _mm512_permutexvar_ps(_mm512_cvtps_epi32(places), load(table));
}

// sum + a·b, where each word holds two bfloat16; two int16; or four bytes: a's without a sign, b's with one.
inline Floats add_bfloat16(Floats sum, Words a, Words b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
inline Words add_int16(Words sum, Words a, Words b) { return _mm512_dpwssd_epi32(sum, a, b); }
inline Words add_int8(Words sum, Words a, Words b) { return _mm512_dpbusd_epi32(sum, a, b); }

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

// Sixteen rows of sixteen numbers become columns.
inline void transpose(Floats (&x)[16]) {
  __m512 y[16];
  for (int i = 0; i < 16; i += 2) {
    y[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
    y[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; j++) {
      const __m512d a = _mm512_castps_pd(y[i + j]), b = _mm512_castps_pd(y[i + j + 2]);
      x[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
      x[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
    }
  for (int i = 0; i < 4; i++)
    for (int j = 0; j < 2; j++) {
      y[4 * j + i] = _mm512_shuffle_f32x4(x[8 * j + i], x[8 * j + i + 4], 0x88);
      y[4 * j + i + 8] = _mm512_shuffle_f32x4(x[8 * j + i], x[8 * j + i + 4], 0xdd);
    }
  for (int i = 0; i < 4; i++) {
    x[i] = _mm512_shuffle_f32x4(y[i], y[i + 4], 0x88);
    x[i + 8] = _mm512_shuffle_f32x4(y[i], y[i + 4], 0xdd);
    x[i + 4] = _mm512_shuffle_f32x4(y[i + 8], y[i + 12], 0x88);
    x[i + 12] = _mm512_shuffle_f32x4(y[i + 8], y[i + 12], 0xdd);
  }
}
