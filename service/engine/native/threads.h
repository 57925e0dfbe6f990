// Work shared between the threads that torch itself computes with: its OpenMP pool, entered by OpenMP's own door, so
// that no second pool waits for the same cores.
#pragma once
#include <atomic>
#include <cstdlib>

using Body = void (*)(void*);
using Parallel = void (*)(Body, void*, unsigned threads, unsigned flags);  // GOMP_parallel

inline Parallel parallel = nullptr;
inline unsigned threads = 1;

// Calls work(i) for each i below n, on whichever thread is free.
template <class Work>
void share(long n, const Work& work) {
  struct Shared {
    const Work& work;
    const long n;
    std::atomic<long> next{0};
    static void run(void* data) {
      auto* shared = static_cast<Shared*>(data);
      for (long i; (i = shared->next.fetch_add(1, std::memory_order_relaxed)) < shared->n;) shared->work(i);
    }
  } shared{work, n};
  if (parallel == nullptr || threads < 2 || n < 2)
    Shared::run(&shared);
  else
    parallel(Shared::run, &shared, threads < n ? threads : static_cast<unsigned>(n), 0);
}

// How many pieces of at most `most` to cut n into, so that all threads get as many, equally large ones.
inline long pieces(long n, long most) {
  const long rounds = (n + most * threads - 1) / (most * threads);
  const long wanted = rounds * threads;
  return wanted < n ? wanted : n;
}

// Memory of one thread, kept between calls.
class Scratch {
 public:
  // Room for `bytes`; what lay there is lost.
  void* room(size_t bytes) {
    if (bytes > size_) {
      std::free(memory_);
      size_ = (bytes + 4095) / 4096 * 4096;
      memory_ = std::aligned_alloc(4096, size_);
    }
    return memory_;
  }
  ~Scratch() { std::free(memory_); }

 private:
  void* memory_ = nullptr;
  size_t size_ = 0;
};

inline thread_local Scratch scratch;
