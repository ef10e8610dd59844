/** Statistics of a shared pool over all workers, and the holders of its blocks. */
import { type BlockHooks, listBlocks } from '../pool/hooks.ts';
import type { PoolPages } from '../pool/pages.ts';
import type { PoolCounts } from '../pool/backend.ts';
import type { PoolStatistics } from '../pool/statistics.ts';
import { Depot } from './depot.ts';
import {
  ATTACHED,
  type Control,
  H_CORRUPTED,
  H_FAILURES,
  H_HIGH_WATER,
  H_QUARANTINED,
  H_WAITS,
  holderOf,
  isFlight,
  MAX_WORKERS,
  NO_WORKER,
} from './layout.ts';
import { WaitTickets } from './wait-tickets.ts';
import { Workers } from './workers.ts';

export class SharedFigures {
  readonly #control: Control;
  readonly #me: number;
  readonly #pages: PoolPages;
  readonly #hooks: BlockHooks | null;
  readonly #workers: Workers;
  readonly #depot: Depot;
  readonly #queue: WaitTickets;

  constructor(control: Control, worker: number, pages: PoolPages, hooks: BlockHooks | null) {
    this.#control = control;
    this.#me = worker;
    this.#pages = pages;
    this.#hooks = hooks;
    this.#workers = new Workers(control.header);
    this.#depot = new Depot(control);
    this.#queue = new WaitTickets(control.header);
  }

  get hasWaiters(): boolean {
    return this.#queue.any;
  }

  #others(): number[] {
    return this.#workers.in(ATTACHED).filter((worker) => worker !== this.#me);
  }

  get othersAttached(): boolean {
    return this.#others().length > 0;
  }

  /** True if other workers have idle blocks, by the counts that they stored last. */
  othersMayHaveIdle(): boolean {
    return this.#others().some((worker) => this.#workers.idleOf(worker) > 0);
  }

  /** Idle blocks of the other workers, for messages; exact while they are idle. */
  idleOfOthers(): string[] {
    return this.#others()
      .map((worker) => ({ worker, idle: this.#depot.idleOf(worker) }))
      .filter(({ idle }) => idle > 0)
      .map(({ worker, idle }) => `${String(idle)} in worker ${String(worker)}`);
  }

  threadOf(worker: number): string {
    return String(this.#workers.threadOf(worker));
  }

  /** The allocated blocks `out`, grouped by worker, for messages. */
  holders(out: readonly number[]): string {
    const byWorker = new Map<number, number[]>();
    for (const index of out) {
      const worker = holderOf(this.#control.words[index]!);
      const blocks = byWorker.get(worker);
      if (blocks === undefined) byWorker.set(worker, [index]);
      else blocks.push(index);
    }
    const lines = [...byWorker].map(([worker, blocks]) => {
      const sites = this.#hooks?.holders(blocks) ?? '';
      const named = sites !== '' ? sites.replaceAll('\n  ', '\n    ') : this.list(blocks);
      return `\n  ${String(blocks.length)} with worker ${String(worker)} (thread ${this.threadOf(worker)}): ${named}`;
    });
    return `${String(out.length)} ${out.length === 1 ? 'block is' : 'blocks are'} still out:${lines.join('')}`;
  }

  list(blocks: readonly number[]): string {
    return listBlocks(blocks, this.#pages);
  }

  /** @param own Allocations of this worker, exact; its stored count may be older. */
  statistics({ active, blocks, pages }: PoolCounts, own: number): PoolStatistics {
    const { header } = this.#control;
    let allocations = this.#workers.past + own;
    for (let worker = 1; worker <= MAX_WORKERS; worker++) {
      if (worker !== this.#me && this.#workers.stateOf(worker) !== NO_WORKER) {
        allocations += this.#workers.allocationsOf(worker);
      }
    }
    // The stored counts of other workers may be too low: preserve allocations >= active.
    allocations = Math.max(allocations, active);
    return {
      active,
      blocks,
      pages,
      highWater: Math.max(active, header[H_HIGH_WATER]!),
      allocations,
      frees: allocations - active,
      failures: header[H_FAILURES]!,
      corrupted: header[H_CORRUPTED]!,
      quarantined: header[H_QUARANTINED]!,
      waits: header[H_WAITS]!,
      waiting: this.#queue.waiting,
      inTransit: this.#control.words.reduce((count, word) => count + (isFlight(word) ? 1 : 0), 0),
    };
  }
}
