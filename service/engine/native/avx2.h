// Sixteen numbers at a time, as two vectors of AVX2; avx512.h has the same names, and those of bytes, and says what they
// mean.
#pragma once
#include <immintrin.h>

#include <cstring>

#include "numbers.h"

struct Floats {
  __m256 low, high;
};

struct Words {
  __m256i low, high;
};

struct Mask {
  long n;  // the first of sixteen
};

// With six rows and sixteen columns, 12 sums in 16 registers.
constexpr int kRows = 6;
constexpr long kPanel = 16;

inline Floats all(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Words all(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline Floats as_floats(Words bits) { return {_mm256_castsi256_ps(bits.low), _mm256_castsi256_ps(bits.high)}; }
inline Floats converted(Words numbers) { return {_mm256_cvtepi32_ps(numbers.low), _mm256_cvtepi32_ps(numbers.high)}; }
inline Words rounded_words(Floats x) { return {_mm256_cvtps_epi32(x.low), _mm256_cvtps_epi32(x.high)}; }

inline Floats operator+(Floats a, Floats b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
inline Floats operator-(Floats a, Floats b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
inline Floats operator*(Floats a, Floats b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
inline Floats operator/(Floats a, Floats b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }

inline Mask first(long n) { return {n}; }

// Which of the eight from `from` on.
inline __m256i lanes(Mask some, int from) {
  const __m256i places = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(some.n < 16 ? some.n : 16) - from), places);
}

inline __m256i load_eight(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }

// Sixteen numbers of two bytes, in the upper halves of words.
inline Words widened(__m256i halves) {
  const auto wide = [](__m128i eight) { return _mm256_slli_epi32(_mm256_cvtepu16_epi32(eight), 16); };
  return {wide(_mm256_castsi256_si128(halves)), wide(_mm256_extracti128_si256(halves, 1))};
}

// Sixteen numbers of two bytes; zeros for those behind the first.
template <class Half>
inline __m256i load_halves(const Half* from, Mask some) {
  if (some.n >= 16) return load_eight(from);
  Half found[16] = {};
  std::memcpy(found, from, some.n * sizeof(Half));
  return load_eight(found);
}

inline Floats load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
inline Floats load(const bfloat16* from) { return as_floats(widened(load_eight(from))); }
inline Words load_words(const char* from) { return {load_eight(from), load_eight(from + 32)}; }

inline Floats load(const float* from, Mask some) {
  if (some.n >= 16) return load(from);
  return {_mm256_maskload_ps(from, lanes(some, 0)), _mm256_maskload_ps(from + 8, lanes(some, 8))};
}
inline Floats load(const bfloat16* from, Mask some) { return as_floats(widened(load_halves(from, some))); }
inline Floats load(const float16* from, Mask some) {
  const __m256i halves = load_halves(from, some);
  return {_mm256_cvtph_ps(_mm256_castsi256_si128(halves)), _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1))};
}

// Words as halves; what lies outside of 0 to 65535 becomes the nearer of the two.
inline __m256i narrowed(Words words) {
  return _mm256_permute4x64_epi64(_mm256_packus_epi32(words.low, words.high), 0xd8);
}

inline __m256i to_bfloat16(Floats x) {
  const auto rounded = [](__m256 eight) {  // to the nearest, to the even one of two as near; what is no number stays so
    const __m256i bits = _mm256_castps_si256(eight);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    const __m256i no_number = _mm256_castps_si256(_mm256_cmp_ps(eight, eight, _CMP_UNORD_Q));
    return _mm256_srli_epi32(_mm256_blendv_epi8(up, _mm256_set1_epi32(0x7fc00000), no_number), 16);
  };
  return narrowed({rounded(x.low), rounded(x.high)});
}

inline void store(float* to, Floats x) {
  _mm256_storeu_ps(to, x.low);
  _mm256_storeu_ps(to + 8, x.high);
}
inline void store(bfloat16* to, Floats x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), to_bfloat16(x)); }
template <class Number>
inline void store(Number* to, Floats x, Mask some) {
  if (some.n >= 16) return store(to, x);
  Number found[16];
  store(found, x);
  std::memcpy(to, found, some.n * sizeof(Number));
}
inline void store_past_cache(float* to, Floats x) {
  _mm256_stream_ps(to, x.low);
  _mm256_stream_ps(to + 8, x.high);
}

inline void store_rounded(int16_t* to, Floats x) {
  const Words whole = rounded_words(x);
  const __m256i halves = _mm256_permute4x64_epi64(_mm256_packs_epi32(whole.low, whole.high), 0xd8);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), halves);
}

inline Floats fmadd(Floats a, Floats b, Floats c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline Floats fmsub(Floats a, Floats b, Floats c) {
  return {_mm256_fmsub_ps(a.low, b.low, c.low), _mm256_fmsub_ps(a.high, b.high, c.high)};
}
inline Floats fnmadd(Floats a, Floats b, Floats c) {
  return {_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)};
}

inline Floats min(Floats a, Floats b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
inline Floats max(Floats a, Floats b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
inline Floats chosen(Mask some, Floats x, Floats elsewhere) {
  const __m256 low = _mm256_castsi256_ps(lanes(some, 0)), high = _mm256_castsi256_ps(lanes(some, 8));
  return {_mm256_blendv_ps(elsewhere.low, x.low, low), _mm256_blendv_ps(elsewhere.high, x.high, high)};
}
inline Floats max(Floats a, Floats b, Mask some) { return chosen(some, max(a, b), a); }
inline Floats only(Mask some, Floats x) { return chosen(some, x, Floats{}); }
inline Floats absolute(Floats x) {
  const __m256 sign = _mm256_set1_ps(-0.f);
  return {_mm256_andnot_ps(sign, x.low), _mm256_andnot_ps(sign, x.high)};
}
inline Floats rounded(Floats x) {
  constexpr int how = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.low, how), _mm256_round_ps(x.high, how)};
}
inline Floats times_power(Floats x, Floats n) {
  const auto times = [](__m256 number, __m256i power) {  // in two steps, each of which float32 has
    const __m256i half = _mm256_srai_epi32(power, 1), rest = _mm256_sub_epi32(power, half);
    const auto two_to = [](__m256i exponent) {
      return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(exponent, _mm256_set1_epi32(127)), 23));
    };
    return _mm256_mul_ps(_mm256_mul_ps(number, two_to(half)), two_to(rest));
  };
  const Words powers = rounded_words(n);
  return {times(x.low, powers.low), times(x.high, powers.high)};
}

// What is left when neighbours are combined until there is one.
template <class Combine>
inline float combined(__m256 eight, Combine combine) {
  const __m128 four = combine(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = combine(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(combine(two, _mm_movehdup_ps(two)));
}
inline float sum(Floats x) {
  return combined(_mm256_add_ps(x.low, x.high), [](__m128 a, __m128 b) { return _mm_add_ps(a, b); });
}
inline float least(Floats x) {
  return combined(_mm256_min_ps(x.low, x.high), [](__m128 a, __m128 b) { return _mm_min_ps(a, b); });
}
inline float most(Floats x) {
  return combined(_mm256_max_ps(x.low, x.high), [](__m128 a, __m128 b) { return _mm_max_ps(a, b); });
}

inline Floats pick(const float* table, Floats places) {
  const Words at = rounded_words(places);
  const Floats both = load(table);
  const auto found = [&](__m256i eight) {
    const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(eight, 28));  // the sign: whether it is 8 or more
    const __m256 low = _mm256_permutevar8x32_ps(both.low, eight), high = _mm256_permutevar8x32_ps(both.high, eight);
    return _mm256_blendv_ps(low, high, upper);
  };
  return {found(at.low), found(at.high)};
}

// No instruction multiplies bfloat16, so they are float32 first.
inline Floats add_bfloat16(Floats sum, Words a, Words b) {
  const auto add = [](__m256 to, __m256i left, __m256i right) {
    const auto even = [](__m256i both) { return _mm256_castsi256_ps(_mm256_slli_epi32(both, 16)); };
    const auto odd = [](__m256i both) {
      return _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(0xffff0000)));
    };
    return _mm256_fmadd_ps(odd(left), odd(right), _mm256_fmadd_ps(even(left), even(right), to));
  };
  return {add(sum.low, a.low, b.low), add(sum.high, a.high, b.high)};
}

inline Words add_int16(Words sum, Words a, Words b) {
  return {_mm256_add_epi32(sum.low, _mm256_madd_epi16(a.low, b.low)),
          _mm256_add_epi32(sum.high, _mm256_madd_epi16(a.high, b.high))};
}

inline Range range(const bfloat16* x, long n) {
  Floats low{}, high{};
  for (long i = 0; i < n; i += 16) {
    low = min(low, load(x + i));
    high = max(high, load(x + i));
  }
  return {least(low), most(high)};
}

inline void transpose_eight(__m256 (&x)[8]) {
  __m256 y[8];
  for (int i = 0; i < 8; i += 2) {
    y[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
    y[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
  }
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; j++) {
      x[i + 2 * j] = _mm256_shuffle_ps(y[i + j], y[i + j + 2], 0x44);
      x[i + 2 * j + 1] = _mm256_shuffle_ps(y[i + j], y[i + j + 2], 0xee);
    }
  for (int i = 0; i < 4; i++) {
    y[i] = _mm256_permute2f128_ps(x[i], x[i + 4], 0x20);
    y[i + 4] = _mm256_permute2f128_ps(x[i], x[i + 4], 0x31);
  }
  for (int i = 0; i < 8; i++) x[i] = y[i];
}

inline void transpose(Floats (&x)[16]) {
  __m256 block[2][2][8];  // [upper eight rows][right eight columns]
  for (int i = 0; i < 16; i++) block[i / 8][0][i % 8] = x[i].low, block[i / 8][1][i % 8] = x[i].high;
  for (auto& half : block)
    for (auto& eight : half) transpose_eight(eight);
  for (int i = 0; i < 16; i++) x[i] = {block[0][i / 8][i % 8], block[1][i / 8][i % 8]};
}
