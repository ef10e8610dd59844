/** A pool's arguments as Linux's `dmapool_test` gives them: bytes; boundary 0 is none. */
export interface BenchGeometry {
  readonly size: number;
  readonly align: number;
  readonly boundary: number;
}

/** The six geometries of Linux's `dmapool_test`. Keep equal to bench/peers/intrusive-bench.c. */
export const KERNEL_GEOMETRIES: readonly BenchGeometry[] = [
  { size: 16, align: 16, boundary: 0 },
  { size: 64, align: 64, boundary: 0 },
  { size: 256, align: 256, boundary: 0 },
  { size: 1024, align: 1024, boundary: 0 },
  { size: 4096, align: 4096, boundary: 0 },
  { size: 68, align: 32, boundary: 4096 },
];

/**
 * Two more, used like the six but not reported. Drivers have several pools, and an engine that has seen one
 * pool may run it faster than it ever will in a real process: with eight in use no figure comes from that.
 */
export const COMPANION_GEOMETRIES: readonly BenchGeometry[] = [
  { size: 32, align: 32, boundary: 0 },
  { size: 192, align: 64, boundary: 0 },
];

/** The most blocks that any geometry's workload holds at once. */
export const MAX_BENCH_BLOCKS = 8192;

/** How many blocks the workload holds at once, as in `dmapool_test`: what fits 512 pages, 1024 to 8192. */
export function benchBlocks(size: number): number {
  return Math.min(Math.max(Math.floor(4096 / size) * 512, 1024), MAX_BENCH_BLOCKS);
}
