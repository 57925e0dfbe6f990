// Work shared between a few threads. Whoever shares something begins at once, and takes what is left himself: a thread
// that the system lets wait is not waited for, unless it has begun. (OpenMP's threads all have to arrive at the end of
// each loop. Beside other busy processes, a pass over one row took a hundred times as long with them.)
#pragma once
#include <immintrin.h>
#include <sched.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <thread>

inline std::atomic<long> threads{1};     // how many compute
inline thread_local bool alone = false;  // whether this thread has work of its own, which it shares with nobody

// How many threads share what this one shares.
inline long workers() { return alone ? 1 : threads.load(std::memory_order_relaxed); }

class Helpers {
 public:
  // Runs work(data) on the calling thread, and on up to n others while that lasts. False: they are busy elsewhere.
  bool run(void (*work)(void*), void* data, long n) {
    const std::unique_lock<std::mutex> mine(busy_, std::try_to_lock);
    if (!mine) return false;
    for (; born_ < n; born_++) std::thread([this] { live(); }).detach();
    work_ = work, data_ = data, most_ = n;
    inside_.fetch_sub(kClosed, std::memory_order_release);
    rounds_.fetch_add(1, std::memory_order_release);
    rounds_.notify_all();
    work(data);
    inside_.fetch_add(kClosed, std::memory_order_acq_rel);
    for (long i = 0; inside_.load(std::memory_order_acquire) != kClosed; i++) i < kSpins ? _mm_pause() : relax();
    return true;
  }

 private:
  void live() {
    for (uint32_t seen = 0;;) {
      for (long i = 0; rounds_.load(std::memory_order_acquire) == seen; i++)
        i < kSpins ? _mm_pause() : rounds_.wait(seen, std::memory_order_acquire);
      seen = rounds_.load(std::memory_order_acquire);
      const long before = inside_.fetch_add(1, std::memory_order_acq_rel);
      if (before >= 0 && before < most_) work_(data_);
      inside_.fetch_sub(1, std::memory_order_release);
    }
  }
  static void relax() { sched_yield(); }

  static constexpr long kClosed = -(1l << 32);  // added to the number of those inside, while nobody may enter
  static constexpr long kSpins = 2000;          // some tens of microseconds: longer than between two steps of a pass
  std::mutex busy_;
  std::atomic<uint32_t> rounds_{0};
  std::atomic<long> inside_{kClosed};
  void (*work_)(void*) = nullptr;
  void* data_ = nullptr;
  long most_ = 0, born_ = 0;
};

// Never destroyed, since its threads never end.
inline Helpers& helpers() {
  static auto* all = new Helpers;
  return *all;
}

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
  const long others = (workers() < n ? workers() : n) - 1;
  if (others < 1 || !helpers().run(Shared::run, &shared, others)) Shared::run(&shared);
}

// How many pieces of at most `most` to cut n into, so that all threads get as many, equally large ones.
inline long pieces(long n, long most) {
  const long rounds = (n + most * workers() - 1) / (most * workers());
  const long wanted = rounds * workers();
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
