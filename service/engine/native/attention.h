// Self-attention that never leaves a row, in float32: nothing is padded, nothing masked.
#pragma once
#include <cmath>

#include "product.h"
#include "threads.h"

// Keys and values that a row attends to besides its own, [heads, length, size] each.
struct Prefix {
  const float *keys, *values;
  int64_t length;
};

// What scores gain by distance.
struct Distances {
  const float* added;  // a table for all heads, or one for each; null: nothing
  int64_t stride;      // from a head's table to the next one's; 0: one for all
  int64_t middle;      // where a table has distance 0
  int64_t free;        // rows up to this length gain nothing
};

// Keys [count, size], `stride` apart, into rows [first, first + count) of a packed [keys, size].
template <class Number>
void pack_keys(const Number* from, long stride, long count, long size, long first_key, long keys, float* packed) {
  for (long key = 0; key < count; key += 16)
    for (long i = 0; i < size; i += 16) {
      Floats block[16];
      for (int r = 0; r < 16; r++)
        block[r] = key + r < count ? load(from + (key + r) * stride + i, first(size - i)) : Floats{};
      transpose(block);
      const long valid = count - key < 16 ? count - key : 16, to = first_key + key;
      for (int r = 0; r < 16 && i + r < size; r++)
        if (to % 16 == 0) {
          const long panel = to / kPanel * kPanel, wide = 16 * vectors(keys, panel);
          store(packed + panel * size + (i + r) * wide + to % kPanel, block[r]);
        } else {  // behind a prefix: key by key, for a vector may lie in two panels
          alignas(64) float column[16];
          store(column, block[r]);
          for (long j = 0; j < valid; j++) {
            const long panel = (to + j) / kPanel * kPanel, wide = 16 * vectors(keys, panel);
            packed[panel * size + (i + r) * wide + (to + j) % kPanel] = column[j];
          }
        }
    }
}

// Values [count, size] into steps [first, first + count) of a packed [size, keys].
template <class Number>
void pack_values(const Number* from, long stride, long count, long size, long first_key, long keys, float* packed) {
  for (long column = 0; column < size; column += kPanel) {
    const int wide = vectors(size, column);
    float* panel = packed + column * keys;
    for (long key = 0; key < count; key++)
      for (int v = 0; v < wide; v++)
        store(panel + (first_key + key) * 16 * wide + 16 * v,
              load(from + key * stride + column + 16 * v, first(size - column - 16 * v)));
  }
}

// Scores become shares that still want dividing; gives back by what.
float soften(float* scores, long keys) {
  Floats highest = all(-INFINITY);
  for (long i = 0; i < keys; i += 16) highest = max(highest, load(scores + i), first(keys - i));
  const Floats top = all(most(highest));
  Floats shares{};
  for (long i = 0; i < keys; i += 16) {
    const Floats share = only(first(keys - i), exponential(load(scores + i) - top));
    store(scores + i, share);
    shares = shares + share;
  }
  return sum(shares);
}

// One head of one row: queries, keys and values from qkv [length, 3·hidden] to out [length, hidden].
template <class Number>
void attend_head(const Distances& distances, long hidden, long size, const Number* qkv, Number* out, long length,
                 long head, const Prefix* prefix) {
  const long stride = 3 * hidden, before = prefix ? prefix->length : 0;
  const long keys = before + length, wide = padded(keys), tall = padded(size);
  const long numbers = wide * size + keys * tall + kRows * (size + wide);
  auto* packed_keys = static_cast<float*>(scratch.room(numbers * sizeof(float)));
  float *packed_values = packed_keys + wide * size, *queries = packed_values + keys * tall;
  float* scores = queries + kRows * size;
  const Number *q = qkv + head * size, *k = q + hidden, *v = k + hidden;
  if (prefix) {
    const long at = head * before * size;
    if (wide != keys) std::memset(packed_keys, 0, wide * size * sizeof(float));
    pack_keys(prefix->keys + at, size, before, size, 0, keys, packed_keys);
    pack_values(prefix->values + at, size, before, size, 0, keys, packed_values);
  }
  pack_keys(k, stride, length, size, before, keys, packed_keys);
  pack_values(v, stride, length, size, before, keys, packed_values);
  const bool near = !distances.added || length <= distances.free;
  const float* added = near ? nullptr : distances.added + head * distances.stride + distances.middle;
  const Floats scale = all(1.f / std::sqrt(static_cast<float>(size)));
  float sums[kRows];
  for (long row = 0; row < length; row += kRows) {
    const int rows = static_cast<int>(length - row < kRows ? length - row : kRows);
    for (int r = 0; r < rows; r++)
      for (long i = 0; i < size; i += 16) {
        const Mask some = first(size - i);
        store(queries + r * size + i, load(q + (row + r) * stride + i, some) * scale, some);
      }
    product<Float32>(rows, queries, size, reinterpret_cast<const char*>(packed_keys), size, keys, 0, keys,
                     [&](long key) { return [=](long r, Floats sum) { store(scores + r * wide + key, sum); }; });
    for (int r = 0; r < rows; r++) {
      if (added)
        for (long i = 0; i < length; i += 16) {
          float* score = scores + r * wide + before + i;
          const Mask some = first(length - i);
          store(score, load(score, some) + load(added - (row + r) + i, some), some);
        }
      sums[r] = soften(scores + r * wide, keys);
    }
    product<Float32>(rows, scores, wide, reinterpret_cast<const char*>(packed_values), keys, size, 0, size,
                     [&](long column) {
                       Number* to = out + row * hidden + head * size + column;
                       return [=, &sums](long r, Floats sum) {
                         store(to + r * hidden, sum * all(1.f / sums[r]), first(size - column));
                       };
                     });
  }
}

// Rows [first, last): qkv [tokens, 3·hidden] → out [tokens, hidden]. `prefixes` has a table for each
// row, or null; or is null itself.
template <class Number>
void attend(const Distances& distances, long heads, long hidden, const int64_t* starts, long first, long last,
            const Prefix* const* prefixes, long index, const Number* qkv, Number* out) {
  share((last - first) * heads, [&](long i) {
    const long row = first + i / heads, from = starts[row];
    attend_head(distances, hidden, hidden / heads, qkv + from * 3 * hidden, out + from * hidden,
                starts[row + 1] - from, i % heads, prefixes && prefixes[row] ? &prefixes[row][index] : nullptr);
  });
}
