import { performance } from 'node:perf_hooks';

/** A moment, in milliseconds: on the clock on the wall, and in processor time that this process has used. */
export interface Moment {
  readonly wall: number;
  readonly cpu: number;
}

/** Processor time comes in microseconds, so it says nothing about shorter runs than this many milliseconds. */
const SHORTEST_BY_CPU = 0.2;

export function now(): Moment {
  const { user, system } = process.cpuUsage();
  return { wall: performance.now(), cpu: (user + system) / 1000 };
}

/**
 * Nanoseconds that this thread ran between two moments.
 *
 * Wall time includes what other processes did on our processor: on a busy machine a run of 6 ms takes 10 or 14, and it
 * looks as if the code had two speeds. Processor time of the process includes the engine's other threads, so both are
 * upper bounds of what is wanted, and the lesser one is the better.
 */
export function elapsedNs(start: Moment, end: Moment): number {
  const wall = end.wall - start.wall;
  const cpu = end.cpu - start.cpu;
  // Windows counts processor time in ticks of 15.6 ms.
  const best = wall < SHORTEST_BY_CPU || process.platform === 'win32' ? wall : Math.min(wall, cpu);
  return best * 1e6;
}
