import { median } from '../src/bench/measure.ts';

/** What one process found. */
export interface Sample {
  readonly nsPerPairMedian: number;
  readonly nsPerPairBest: number;
}

/** What several processes found. */
export interface Summary {
  /** The least of all. */
  readonly best: number;
  /** The median process's median. */
  readonly median: number;
  /** The slowest process's median: far from `median` where a process in two is slow. */
  readonly slowest: number;
  readonly processes: readonly Sample[];
}

/** Samples of each contender, by a key such as `object 64/64/0`. */
export class SampleBook {
  readonly #samples = new Map<string, Sample[]>();

  add(key: string, { nsPerPairMedian, nsPerPairBest }: Sample): void {
    const list = this.#samples.get(key) ?? [];
    list.push({ nsPerPairMedian, nsPerPairBest });
    this.#samples.set(key, list);
  }

  summary(key: string): Summary | null {
    const processes = this.#samples.get(key);
    return processes === undefined ? null : summarize(processes);
  }
}

export function summarize(processes: readonly Sample[]): Summary {
  const medians = processes.map((sample) => sample.nsPerPairMedian);
  return {
    best: Math.min(...processes.map((sample) => sample.nsPerPairBest)),
    median: median(medians),
    slowest: Math.max(...medians),
    processes,
  };
}
