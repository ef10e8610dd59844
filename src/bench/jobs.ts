import type { SharedPoolHandle } from '../index.ts';
import type { Batch } from './pipeline.ts';

export interface SharedPools {
  /** In the order of the geometries. */
  readonly handles: readonly SharedPoolHandle[];
  readonly pipeline: SharedPoolHandle;
  readonly ring: SharedArrayBuffer;
}

/** What a thread of the crew is made with. */
export interface CrewData {
  /** The shared pools; null for a thread that has pools of its own. */
  readonly shared: SharedPools | null;
  /** The most blocks that this thread holds at once, of each pool. */
  readonly shares: readonly number[];
  readonly meeting: SharedArrayBuffer;
}

/** What the coordinator has a thread do. `complete`: see {@link Meeting}. `counts`: this is no warming up. */
export type Job =
  | { readonly kind: 'warm-up' }
  | {
      readonly kind: 'rounds';
      readonly pool: number;
      /** Blocks to hold at once. */
      readonly blocks: number;
      readonly rounds: number;
      readonly complete: number;
      readonly counts: boolean;
    }
  | {
      readonly kind: 'pipeline';
      readonly half: 'give' | 'take';
      readonly batch: Batch;
      readonly calls: number;
      readonly complete: number;
      readonly counts: boolean;
    }
  | { readonly kind: 'garbage' }
  | { readonly kind: 'end' };

/** When a job began and ended, in milliseconds on a clock that all threads share. */
export interface Span {
  readonly start: number;
  readonly end: number;
  /** The thread waited for a processor, here or at the meeting; false also where the system does not say. */
  readonly disturbed: boolean;
}

/** Bytes of garbage of this thread for each pair of a pool, and for each block of a pipeline; null: not known. */
export interface Garbage {
  readonly pools: readonly (number | null)[];
  readonly pipeline: Readonly<Record<Batch, number | null>>;
}

export type Reply = Span | Garbage | null;
