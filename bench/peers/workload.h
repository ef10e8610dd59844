/* The workload of Linux's dmapool_test, and helpers of the programs that run it. */
#ifndef WORKLOAD_H
#define WORKLOAD_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct geometry {
  size_t size, align, boundary;
  int reported;
};

/* Must match USED_GEOMETRIES in src/cli/speed.ts. */
static const struct geometry geometries[] = {
    {16, 16, 0, 1},     {64, 64, 0, 1},    {256, 256, 0, 1}, {1024, 1024, 0, 1},
    {4096, 4096, 0, 1}, {68, 32, 4096, 1}, {32, 32, 0, 0},   {192, 64, 0, 0},
};
enum { POOLS = sizeof geometries / sizeof geometries[0], MAX_BLOCKS = 8192 };

static inline size_t blocks_for(size_t size) {
  size_t blocks = 4096 / size * 512;
  return blocks < 1024 ? 1024 : blocks > MAX_BLOCKS ? MAX_BLOCKS : blocks;
}

static inline double read_ns(clockid_t clock) {
  struct timespec time;
  clock_gettime(clock, &time);
  return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static inline void fail(const char *what) {
  fprintf(stderr, "%s\n", what);
  exit(1);
}

static inline int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Parses the option `name`, a whole number from 1; `value` is the default. */
static inline int option(int argc, char **argv, const char *name, int value) {
  for (int i = 1; i < argc; i += 2) {
    if (strcmp(argv[i], name) != 0) continue;
    value = i + 1 < argc ? atoi(argv[i + 1]) : 0;
    if (value < 1) fail("options take a whole number from 1");
  }
  return value;
}

#endif
