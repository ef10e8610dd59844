import { type DmaBlock, DmaError, type DmaPool } from '../index.ts';
import { type DecodedTrace, OPERATION } from './decode.ts';
import { DmaReplayError } from './error.ts';
import { Fleet } from './fleet.ts';
import { Ledger } from './ledger.ts';
import { type EpochRow, MomentRecorder, type PoolsNow, type SnapshotMoments } from './moments.ts';
import { BlockOracle } from './oracle.ts';
import { type KernelVersion, kernelVersion, ordersAsOurs, skipsExactFit } from './pages.ts';
import type { ReplayMismatch } from './result.ts';

/** Maximum number of listed failures; further ones are only counted. */
const TROUBLE_LIMIT = 1000;
/** Number of calls between two reports of progress. */
const PROGRESS_STEP = 16_384;
/** Names of the operations by number. */
const FIELDS = ['create', 'alloc', 'alloc', 'free', 'destroy'] as const;

/** Result of the checking pass. */
export interface CheckResult {
  readonly snapshots: readonly SnapshotMoments[];
  /** By index of the pool. */
  readonly ledgers: readonly Ledger[];
  readonly failures: number;
  /** Number of allocations whose page and offset were compared with the kernel's. */
  readonly placed: number;
  readonly troubles: readonly ReplayMismatch[];
  /** 1 for each operation that failed; a timed pass omits it. */
  readonly failed: Uint8Array;
}

/** Replays a trace once, with all checks at each call. */
export class CheckingPass implements PoolsNow {
  readonly devices: readonly string[];
  readonly #trace: DecodedTrace;
  readonly #fleet: Fleet;
  readonly #oracles = new Map<string, BlockOracle>();
  readonly #ledgers: readonly Ledger[];
  readonly #held: (DmaBlock | undefined)[];
  /** By device: indices of its pools that are not destroyed, newest first. */
  readonly #living = new Map<string, number[]>();
  readonly #recorder = new MomentRecorder(this);
  readonly #failed: Uint8Array;
  readonly #troubles: ReplayMismatch[] = [];
  readonly #version: KernelVersion | null;
  #failures = 0;
  #placed = 0;
  /** Index of the current operation. */
  #at = 0;

  constructor(trace: DecodedTrace, needs: ReadonlyMap<string, number>, debug: boolean) {
    this.#trace = trace;
    this.devices = trace.devices;
    this.#failed = new Uint8Array(trace.operations.length);
    this.#held = new Array<DmaBlock | undefined>(trace.slots).fill(undefined);
    this.#version = kernelVersion(trace.header.fields.get('kernel'));
    const skips = skipsExactFit(this.#version);
    this.#ledgers = trace.pools.map((pool) => new Ledger(pool, skips));
    for (const device of trace.devices) this.#living.set(device, []);
    const complain = (message: string): void => {
      // Messages after the last operation are about blocks that the trace does not free, which is allowed.
      if (this.#at < trace.operations.length) this.#trouble('log', message);
    };
    this.#fleet = new Fleet(trace, needs, {
      debug,
      log: { error: complain, warn: complain, info: () => undefined },
      wrap: (memory, device) => {
        const oracle = new BlockOracle(memory);
        this.#oracles.set(device, oracle);
        return oracle;
      },
    });
  }

  /** Replays the whole trace. @param onProgress Called with the number of operations done. */
  run(onProgress: (done: number) => void): CheckResult {
    const { operations, snapshots } = this.#trace;
    let next = 0;
    let end = -1;
    for (this.#at = 0; ; this.#at++) {
      if (this.#at === end) this.#recorder.end();
      for (let snapshot = snapshots[next]; snapshot?.begin === this.#at; snapshot = snapshots[++next]) {
        this.#recorder.begin(snapshot.label);
        end = snapshot.end;
        if (this.#at === end) this.#recorder.end();
      }
      if (this.#at === operations.length) break;
      this.#operate(operations[this.#at]!);
      if (this.#at % PROGRESS_STEP === 0) onProgress(this.#at);
    }
    const result = {
      snapshots: this.#recorder.snapshots,
      ledgers: this.#ledgers,
      failures: this.#failures,
      placed: this.#placed,
      troubles: [...this.#troubles],
      failed: this.#failed,
    };
    this.#fleet.pools.forEach((pool, i) => {
      const ledger = this.#ledgers[i]!;
      if (pool !== undefined && !ledger.destroyed) ledger.pages = pool.statistics().pages;
    });
    this.#fleet.close();
    return result;
  }

  rows(device: string): EpochRow[] {
    return (this.#living.get(device) ?? []).map((index) => {
      const pool = this.#pool(index);
      const { active, blocks, pages } = pool.statistics();
      const { recorded, raced, peak } = this.#ledgers[index]!;
      const row = { name: pool.name, active, blocks, size: pool.geometry.blockSize, pages };
      return {
        pool: index,
        row,
        actives: new Set([active]),
        pageCounts: new Set([pages]),
        pages: { recorded, raced, peak },
      };
    });
  }

  text(device: string): string | null {
    return this.#fleet.device(device).readAttribute('pools') ?? null;
  }

  #operate(operation: number): void {
    const index = this.#trace.poolOf[this.#at]!;
    const slot = this.#trace.slotOf[this.#at]!;
    const ledger = this.#ledgers[index]!;
    try {
      if (operation === OPERATION.create) this.#create(index, ledger);
      else if (operation === OPERATION.destroy) this.#destroy(index, ledger);
      else if (operation === OPERATION.free) this.#free(index, slot, ledger);
      else this.#alloc(index, slot, ledger, operation === OPERATION.zalloc);
    } catch (error) {
      if (!(error instanceof DmaError)) throw error;
      this.#failed[this.#at] = 1;
      this.#trouble(FIELDS[operation] ?? '', error.message);
    }
    this.#recorder.counts(index, ledger.active, ledger.pageCount, ledger);
  }

  #create(index: number, { device }: Ledger): void {
    this.#fleet.create(index);
    this.#living.get(device)?.unshift(index);
    this.#recorder.changed(device);
  }

  #alloc(index: number, slot: number, ledger: Ledger, zero: boolean): void {
    ledger.kernelAlloc(this.#trace.pageOf[this.#at]!);
    const pool = this.#pool(index);
    const block = zero ? pool.alloc({ zero: true }) : pool.alloc();
    // Count the block as allocated before the checks, which may fail.
    ledger.alloc();
    if (this.#held[slot] !== undefined) this.#trouble('alloc', 'the trace allocates a block that is already allocated');
    this.#held[slot] = block;
    this.#comparePlace(block, ledger);
    const { blockSize, align, boundary } = pool.geometry;
    const demand = { size: blockSize, align, boundary };
    const broken = this.#oracle(ledger).taken(slot, block, demand, zero, this.#fleet.device(ledger.device));
    for (const { rule, message } of broken) this.#trouble(rule, message);
  }

  /** Compares page and offset with the kernel's, until the kernel takes an extra page: then its free list differs. */
  #comparePlace({ dma }: DmaBlock, ledger: Ledger): void {
    const begin = this.#oracle(ledger).pageAt(dma);
    const page = ledger.pageNumber(begin);
    if (!ordersAsOurs(this.#version) || ledger.raced > 0) return;
    this.#placed++;
    const recorded = { page: this.#trace.pageOf[this.#at]!, offset: this.#trace.offsetOf[this.#at]! };
    if (page === recorded.page && dma - begin === recorded.offset) return;
    const [ours, kernels] = [{ page, offset: dma - begin }, recorded].map((place) => {
      return `page ${String(place.page)}, offset ${String(place.offset)}`;
    });
    this.#trouble('place', `the block is at ${ours!}, the kernel's at ${kernels!}`);
  }

  #free(index: number, slot: number, ledger: Ledger): void {
    ledger.kernelFree();
    const pool = this.#pool(index);
    const block = this.#held[slot];
    if (block === undefined)
      throw new DmaReplayError('the block is not allocated: the trace freed it before, or its allocation failed');
    for (const { rule, message } of this.#oracle(ledger).given(slot, block)) this.#trouble(rule, message);
    pool.free(block);
    this.#held[slot] = undefined;
    ledger.free();
  }

  #destroy(index: number, ledger: Ledger): void {
    const pool = this.#pool(index);
    if (ledger.destroyed) throw new DmaReplayError('the trace destroys the pool twice');
    ledger.pages = pool.statistics().pages;
    ledger.destroyed = true;
    const living = this.#living.get(ledger.device);
    living?.splice(living.indexOf(index), 1);
    // With allocated blocks this logs an error, which is a failure.
    pool.destroy();
    this.#recorder.changed(ledger.device);
  }

  #pool(index: number): DmaPool {
    const pool = this.#fleet.pools[index];
    if (pool === undefined) throw new DmaReplayError('the pool could not be created');
    return pool;
  }

  #oracle(ledger: Ledger): BlockOracle {
    return this.#oracles.get(ledger.device)!;
  }

  #trouble(field: string, message: string): void {
    this.#failures++;
    if (this.#troubles.length >= TROUBLE_LIMIT) return;
    const { device, name } = this.#trace.pools[this.#trace.poolOf[this.#at]!]!;
    const line = String(this.#trace.lineOf[this.#at]);
    this.#troubles.push({ snapshot: null, device, pool: name, field, ours: `line ${line}: ${message}`, kernel: null });
  }
}
