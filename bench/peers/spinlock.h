/*
 * A test-and-test-and-set spinlock. Acquire: one locked compare-exchange; under contention it polls with plain loads
 * and the CPU's pause hint, which keeps the cache line shared until the lock is free. Release: a plain store (on x86,
 * stores are releases). Uncontended it costs one locked operation, the minimum for such a lock, and the cost of
 * Linux's.
 */
#ifndef SPINLOCK_H
#define SPINLOCK_H

#include <stdatomic.h>

struct spinlock {
  atomic_int locked;
};

static inline void spin_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static inline void spin_lock(struct spinlock *lock) {
  int expected = 0;
  while (__builtin_expect(!atomic_compare_exchange_weak_explicit(&lock->locked, &expected, 1, memory_order_acquire,
                                                                 memory_order_relaxed),
                          0)) {
    while (atomic_load_explicit(&lock->locked, memory_order_relaxed) != 0) spin_pause();
    expected = 0;
  }
}

static inline void spin_unlock(struct spinlock *lock) {
  atomic_store_explicit(&lock->locked, 0, memory_order_release);
}

#endif
