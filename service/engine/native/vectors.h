// Sixteen numbers at a time: loading, storing, and the functions that a transformer needs.
#pragma once
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <initializer_list>

struct bfloat16 {
  uint16_t bits;
};

struct float16 {
  uint16_t bits;
};

inline __m512 load(const float* from) { return _mm512_loadu_ps(from); }

inline __m512 load(const bfloat16* from) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

inline void store(float* to, __m512 x) { _mm512_storeu_ps(to, x); }

inline __m256i rounded(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }

inline void store(bfloat16* to, __m512 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), rounded(x));
}

// The first `n` of sixteen.
inline __mmask16 first(long n) { return n >= 16 ? 0xffff : static_cast<__mmask16>((1u << n) - 1); }

inline void store(float* to, __m512 x, __mmask16 mask) { _mm512_mask_storeu_ps(to, mask, x); }

inline void store(bfloat16* to, __m512 x, __mmask16 mask) {
  _mm256_mask_storeu_epi16(to, mask, rounded(x));
}

inline __m512 load(const float* from, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, from); }

inline __m512 load(const bfloat16* from, __mmask16 mask) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from)), 16));
}

inline __m512 load(const float16* from, __mmask16 mask) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, from));
}

// Sixteen rows of sixteen numbers become columns.
inline void transpose(__m512 (&x)[16]) {
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

// e^x within two units in the last place: x = n·ln 2 + r, then a polynomial in r (the Cephes library's).
inline __m512 exponential(__m512 x) {
  x = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(-104.f)), _mm512_set1_ps(88.7f));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);  // ln 2 in two parts, the first one exact
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  for (const float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
  p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r);
  return _mm512_scalef_ps(_mm512_add_ps(p, _mm512_set1_ps(1.f)), n);
}

inline __m512 reciprocal(__m512 x) { return _mm512_div_ps(_mm512_set1_ps(1.f), x); }

inline __m512 negative(__m512 x) { return _mm512_sub_ps(_mm512_setzero_ps(), x); }

inline __m512 sigmoid(__m512 x) { return reciprocal(_mm512_add_ps(exponential(negative(x)), _mm512_set1_ps(1.f))); }

// Φ(x) - ½ for x ≥ 0, the normal distribution's half: over each of sixteen intervals the polynomial that is exact at the
// Chebyshev nodes; within 1e-7.
class NormalHalf {
 public:
  NormalHalf() {
    for (int i = 0; i < 16; i++) {
      double node[kTerms], newton[kTerms], terms[kTerms] = {};
      for (int j = 0; j < kTerms; j++) {
        node[j] = .5 * std::cos((j + .5) * M_PI / kTerms);
        newton[j] = .5 * std::erf((i + node[j]) * kWidth * M_SQRT1_2);
      }
      for (int order = 1; order < kTerms; order++)  // divided differences
        for (int j = kTerms - 1; j >= order; j--)
          newton[j] = (newton[j] - newton[j - 1]) / (node[j] - node[j - order]);
      for (int j = kTerms - 1; j >= 0; j--) {  // terms := terms · (t - node) + newton
        for (int power = kTerms - 1; power > 0; power--) terms[power] = terms[power - 1] - node[j] * terms[power];
        terms[0] = newton[j] - node[j] * terms[0];
      }
      for (int power = 0; power < kTerms; power++) terms_[power][i] = static_cast<float>(terms[power]);
    }
  }

  __m512 operator()(__m512 x) const {
    const __m512 at = _mm512_min_ps(_mm512_mul_ps(x, _mm512_set1_ps(1 / kWidth)), _mm512_set1_ps(15.49f));
    const __m512 middle = _mm512_roundscale_ps(at, 0), t = _mm512_sub_ps(at, middle);
    const __m512i interval = _mm512_cvtps_epi32(middle);
    __m512 y = _mm512_permutexvar_ps(interval, load(terms_[kTerms - 1]));
    for (int power = kTerms - 2; power >= 0; power--)
      y = _mm512_fmadd_ps(y, t, _mm512_permutexvar_ps(interval, load(terms_[power])));
    return y;
  }

 private:
  static constexpr int kTerms = 5;
  static constexpr float kWidth = .36f;  // beyond the last interval the half is ½ in float32
  alignas(64) float terms_[kTerms][16];
};

inline const NormalHalf normal_half;

// x·Φ(x).
inline __m512 gelu(__m512 x) {
  const __m512 size = _mm512_abs_ps(x);
  return _mm512_fmadd_ps(size, normal_half(size), _mm512_mul_ps(x, _mm512_set1_ps(.5f)));
}

inline __m512 gelu_tanh(__m512 x) {
  const __m512 cube = _mm512_mul_ps(_mm512_mul_ps(x, x), x);
  const __m512 u = _mm512_fmadd_ps(cube, _mm512_set1_ps(0.044715f), x);
  return _mm512_mul_ps(x, sigmoid(_mm512_mul_ps(u, _mm512_set1_ps(2 * 0.7978845608f))));
}

enum Activation : int32_t { none, gelu_exact, gelu_by_tanh, rectified, swish, hyperbolic };

inline __m512 activated(__m512 x, Activation activation) {
  switch (activation) {
    case gelu_exact: return gelu(x);
    case gelu_by_tanh: return gelu_tanh(x);
    case rectified: return _mm512_max_ps(x, _mm512_setzero_ps());
    case swish: return _mm512_mul_ps(x, sigmoid(x));
    case hyperbolic:
      return _mm512_fmsub_ps(_mm512_set1_ps(2.f), sigmoid(_mm512_add_ps(x, x)), _mm512_set1_ps(1.f));
    default: return x;
  }
}
