// Matrices as a product reads them (product.h), from numbers one row after another, of any type that a file may hold.
#pragma once
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

enum Type : int32_t { as_float32, as_bfloat16, as_float16 };

// One tensor of an adapter, and where it shall lie.
struct Tensor {
  const char* from;  // [n, k] of `stored`
  char* to;          // of `wanted`, which is float32 or bfloat16
  int64_t n, k;
  Type stored, wanted;
  int64_t packed;  // whether as a product reads it
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
inline bool convert(const Tensor& tensor, char* to) {
  To* numbers = reinterpret_cast<To*>(to);
  const long count = tensor.n * tensor.k;
  switch (tensor.stored) {
    case as_float32: return convert(reinterpret_cast<const float*>(tensor.from), numbers, count);
    case as_bfloat16: return convert(reinterpret_cast<const bfloat16*>(tensor.from), numbers, count);
    case as_float16: return convert(reinterpret_cast<const float16*>(tensor.from), numbers, count);
  }
  return false;
}

// Whether all numbers are finite.
inline bool lay(const Tensor* tensors, long count) {
  bool finite = true;
  std::vector<char> room;  // for what is converted before it is packed
  for (const Tensor* tensor = tensors; tensor < tensors + count; tensor++) {
    const long bytes = tensor->wanted == as_float32 ? 4 : 2;
    if (tensor->packed) room.resize(tensor->n * tensor->k * bytes);
    char* to = tensor->packed ? room.data() : tensor->to;
    finite &= tensor->wanted == as_float32 ? convert<float>(*tensor, to) : convert<bfloat16>(*tensor, to);
    if (tensor->packed) pack(to, tensor->n, tensor->k, bytes, tensor->to);
  }
  return finite;
}
