// Matrices as a product reads them (product.h), from numbers one row after another, of any type that a file may hold.
#pragma once
#include <algorithm>
#include <cfloat>
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
  float* scale;      // of integers, [n] and zeros up to a multiple of 16: what one step of a row's numbers is worth,
  float* total;      // and, of int8, the sum of its integers
  int64_t n, k;
  Type stored;  // no integers
  Type wanted;  // not float16
  int64_t packed;  // whether as a product reads it; integers are
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

// Each row in the finest steps that its largest number allows, and that let 32 bits hold its products' sums, whatever
// the token. Whether all numbers are finite.
template <class Format>
bool quantise_rows(const Tensor& tensor, typename Format::Weight* to) {
  using Weight = typename Format::Weight;
  constexpr float largest = (1 << (8 * sizeof(Weight) - 1)) - 1;
  const long k = tensor.k, wide = padded(k);
  const auto largest_sum = static_cast<float>(INT32_MAX / Format::kSteps - k);  // each may become larger by rounding
  std::vector<float> row(wide);  // zeros behind
  std::vector<Weight> whole(wide);
  bool finite = true;
  std::fill_n(tensor.scale, padded(tensor.n), 0.f);
  if (tensor.total) std::fill_n(tensor.total, padded(tensor.n), 0.f);
  for (long r = 0; r < tensor.n; r++) {
    finite &= convert(tensor, r * k, k, row.data());
    Floats high{}, sizes{};
    for (long i = 0; i < wide; i += 16) {
      const Floats size = absolute(load(row.data() + i));
      high = max(high, size);
      sizes = sizes + size;
    }
    const float scale = std::max({most(high) / largest, sum(sizes) / largest_sum, FLT_MIN});
    const Floats by = all(1.f / scale);
    Floats total{};
    for (long i = 0; i < wide; i += 16) {
      const Floats steps = rounded(load(row.data() + i) * by);
      total = total + steps;
      store_rounded(whole.data() + i, steps);
    }
    std::copy_n(whole.data(), k, to + r * k);
    tensor.scale[r] = scale;
    if (tensor.total) tensor.total[r] = sum(total);
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
