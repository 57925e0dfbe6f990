// Matrices as a product reads them (product.h), from numbers one row after another, of any type that a file may hold.
#pragma once
#include <algorithm>
#include <vector>

#include "product.h"

// Packs w [n, k] of numbers with `bytes` bytes each, of which four bytes are a step, to whole lines of the cache.
//
// They go past the cache: they are wanted much later, and what is computed beside it keeps its place there.
inline void pack(const char* w, long n, long k, long bytes, char* out) {
  const long wide = k * bytes;
  for (long column = 0; column < n; column += kPanel) {
    const long across = 64 * vectors(n, column);  // bytes of a step
    for (long row = column; row < column + across / 4; row += 16)
      for (long at = 0; at < wide; at += 64) {
        Floats block[16];
        for (int r = 0; r < 16; r++) {
          const auto* from = reinterpret_cast<const float*>(w + (row + r) * wide + at);
          block[r] = row + r < n ? load(from, first((wide - at) / 4)) : Floats{};
        }
        transpose(block);
        char* to = out + at / 4 * across + (row - column) * 4;
        for (int s = 0; s < 16 && at + 4 * s < wide; s++)
          store_past_cache(reinterpret_cast<float*>(to + s * across), block[s]);
      }
    out += wide / 4 * across;
  }
  _mm_sfence();  // another thread may read them next
}

enum Type : int32_t { as_float32, as_bfloat16, as_float16, as_int16, as_int8 };

// A tensor, and where it shall lie.
struct Tensor {
  const char* from;  // [n, k] of `stored`
  char* to;          // of `wanted`
  float* scale;      // of integers, room for n and up to a multiple of 16: what one step of a row's numbers is worth,
  float* total;      // and, of int8, the sum of its integers
  int64_t n, k;      // of integers, k is a multiple of 16
  Type stored;       // no integers
  Type wanted;       // not float16
  int64_t packed;    // whether as a product reads it; integers are
};

// Whether all of them are finite.
template <class To, class From>
inline bool convert(const From* from, To* to, long numbers) {
  Floats wrong{};
  for (long i = 0; i < numbers; i += 16) {
    const Floats x = load(from + i, first(numbers - i));
    wrong = wrong + (x - x);  // zero, or no number, and that it stays
    store(to + i, x, first(numbers - i));
  }
  return sum(wrong) == 0;
}

template <class To>
inline bool convert(const Tensor& tensor, long from, long numbers, To* to) {
  switch (tensor.stored) {
    case as_float32: return convert(reinterpret_cast<const float*>(tensor.from) + from, to, numbers);
    case as_bfloat16: return convert(reinterpret_cast<const bfloat16*>(tensor.from) + from, to, numbers);
    case as_float16: return convert(reinterpret_cast<const float16*>(tensor.from) + from, to, numbers);
    default: return false;
  }
}

constexpr float kFinest = 1e-20f;  // a step of zeros: times a token's it is no denormal number, which were slow

// Each row in the finest steps that its largest number allows, and that let 32 bits hold its products' sums, whatever
// the token; sixteen rows at a time. Whether all numbers are finite.
template <class Format>
bool quantise_rows(const Tensor& tensor, typename Format::Weight* to) {
  constexpr float largest = (1 << (8 * sizeof(*to) - 1)) - 1;
  const long n = tensor.n, k = tensor.k;
  const auto largest_sum = static_cast<float>(INT32_MAX / Format::kSteps - k);  // each may become larger by rounding
  std::vector<float> rows(16 * k);
  bool finite = true;
  for (long from = 0; from < n; from += 16) {
    const long count = std::min(n - from, 16l);
    finite &= convert(tensor, from * k, count * k, rows.data());
    Floats high[16]{}, whole[16]{};
    for (long r = 0; r < count; r++)
      for (long i = 0; i < k; i += 16) {
        const Floats size = absolute(load(rows.data() + r * k + i));
        high[r] = max(high[r], size);
        whole[r] = whole[r] + size;
      }
    transpose(high);
    transpose(whole);
    for (int i = 1; i < 16; i++) high[0] = max(high[0], high[i]), whole[0] = whole[0] + whole[i];
    const Floats scale = max(max(high[0] / all(largest), whole[0] / all(largest_sum)), all(kFinest));
    float each[16];
    store(each, scale);
    store(tensor.scale + from, scale);
    for (long r = 0; r < count; r++) {
      const Floats by = all(1.f / each[r]);
      Floats total{};
      for (long i = 0; i < k; i += 16) {
        const Floats steps = load(rows.data() + r * k + i) * by;
        store_rounded(to + (from + r) * k + i, steps);
        if (tensor.total) total = total + rounded(steps);
      }
      if (tensor.total) tensor.total[from + r] = sum(total);
    }
  }
  return finite;
}

inline long bytes_of(Type type) { return type == as_float32 ? 4 : type == as_int8 ? 1 : 2; }

// Whether all numbers are finite.
inline bool lay(const Tensor* tensors, long count) {
  bool finite = true;
  std::vector<char> room;  // for what is converted before it is packed
  for (const Tensor* tensor = tensors; tensor < tensors + count; tensor++) {
    const long numbers = tensor->n * tensor->k, bytes = bytes_of(tensor->wanted);
    if (tensor->packed) room.resize(numbers * bytes);
    char* to = tensor->packed ? room.data() : tensor->to;
    switch (tensor->wanted) {
      case as_float32: finite &= convert(*tensor, 0, numbers, reinterpret_cast<float*>(to)); break;
      case as_int16: finite &= quantise_rows<Int16>(*tensor, reinterpret_cast<Int16::Weight*>(to)); break;
      case as_int8: finite &= quantise_rows<Int8>(*tensor, reinterpret_cast<Int8::Weight*>(to)); break;
      default: finite &= convert(*tensor, 0, numbers, reinterpret_cast<bfloat16*>(to));
    }
    if (tensor->packed) pack(to, tensor->n, tensor->k, bytes, tensor->to);
  }
  return finite;
}
