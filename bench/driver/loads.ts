/** The loads of `npm run bench:driver`. */

import type { TimeShares } from '../nvme/profile.ts';

/** Reads of 4 KiB through the NVMe driver. */
export interface NvmeLoad {
  readonly name: string;
  /** Requests in flight. */
  readonly depth: number;
  /** `zero-copy`: into DMA memory; `bulk`: the same, `depth` reads by one call; `copied`: through bounce buffers. */
  readonly form: 'zero-copy' | 'bulk' | 'copied';
  /** True: the driver polls each turn of the event loop; false: interrupts. */
  readonly polling: boolean;
}

/** Packets of 60 bytes through the e1000 driver, 64 at a time. */
export interface E1000Load {
  readonly name: string;
  /** True: the barest code in place of the driver. */
  readonly bare: boolean;
  /** True: each received packet is sent; false: it is freed. */
  readonly forward: boolean;
}

export type Load = NvmeLoad | E1000Load;

/** What a process measures. */
export interface Measurement {
  /** Requests or packets a second: median of the repetitions, and the best one. */
  readonly rate: number;
  readonly best: number;
  /** Nanoseconds of CPU time a request, all threads of the process. */
  readonly cpu: number;
  /** Bytes of garbage a request; null if a collection disturbed all repetitions. */
  readonly garbage: number | null;
  /** Where the time goes, by a sampling profiler. */
  readonly shares: TimeShares;
}

const DEPTHS = [1, 32, 128];

export const LOADS: readonly Load[] = [
  ...[false, true].flatMap((polling) =>
    (['zero-copy', 'bulk', 'copied'] as const).flatMap((form) =>
      DEPTHS.filter((depth) => form !== 'bulk' || depth > 1).map((depth): NvmeLoad => {
        const how = polling ? 'polling' : 'interrupt';
        return { name: `nvme ${form} depth ${String(depth)} ${how}`, depth, form, polling };
      }),
    ),
  ),
  { name: 'e1000 receive', bare: false, forward: false },
  { name: 'e1000 receive, floor', bare: true, forward: false },
  { name: 'e1000 forward', bare: false, forward: true },
  { name: 'e1000 forward, floor', bare: true, forward: true },
];

export function isE1000(load: Load): load is E1000Load {
  return 'forward' in load;
}
