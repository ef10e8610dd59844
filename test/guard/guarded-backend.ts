/**
 * A PCI backend around that of a fake function. Every access goes through a fault plan and lets the device access memory.
 * The backend marks the DMA as stopped only when the host has proof of it.
 *
 *     PciFunction --> GuardedBackend --> backend of the fake
 *                        | FaultPlan: slow, rejected, all ones, lost
 *                        | RelentlessDma: proven, resumed, cut off
 */
import type { CoherentAllocator } from 'dmapool';
import type { BarInfo, InterruptBackend, InterruptKind, PciBackend, RawConfigSpace } from 'dmapool/pci';
import { PciError, PciGoneError } from 'dmapool/pci';
import type { AccessKind, Fault, FaultPlan } from './fault-plan.ts';
import type { RelentlessDma } from './relentless-dma.ts';

const VENDOR_ID = 0;
const COMMAND = 4;
const BUS_MASTER = 4;

/** The fake function. */
export interface GuardedFake {
  readonly backend: PciBackend;
  /** State of bus mastering in the device. */
  isBusMaster(): boolean;
  /** Function-level reset: clears bus mastering and all state of the device. Absent if unsupported. */
  reset?(): void;
}

export interface GuardedOptions {
  readonly fake: GuardedFake;
  readonly memory: CoherentAllocator;
  readonly dma: RelentlessDma;
  readonly plan: FaultPlan;
  /** The backend supports `isolate`. */
  readonly isolates?: boolean;
  /** The backend supports `settle`; its reads of configuration space do not wait for DMA in flight. */
  readonly settles?: boolean;
}

export class GuardedBackend implements PciBackend {
  readonly address: string;
  readonly configSize: number;
  readonly bars: readonly BarInfo[];
  readonly memory: CoherentAllocator;
  readonly removed: AbortSignal;
  readonly rawConfig: RawConfigSpace;
  readonly reset?: () => Promise<boolean>;
  readonly settle?: () => Promise<void>;
  readonly isolate?: () => Promise<void>;
  readonly #controller = new AbortController();
  readonly #inner: PciBackend;
  /** Configuration space of the fake, as drivers access it. */
  readonly #config: RawConfigSpace;
  readonly #fake: GuardedFake;
  readonly #dma: RelentlessDma;
  readonly #plan: FaultPlan;
  #isPulled = false;
  #isClosed = false;
  /** Resolves when the latest access is complete. */
  #last: Promise<void> = Promise.resolve();
  /** Number of accesses in flight. */
  #inFlight = 0;
  /** Posted writes in flight. */
  readonly #posted: (() => void)[] = [];
  /** Error of a posted write; the next awaited call throws it. */
  #postedError: Error | null = null;
  /** Calls that violate the contract of a backend: after close, or a close while the device may do DMA. */
  readonly usageErrors: string[] = [];

  constructor({ fake, memory, dma, plan, isolates = false, settles = false }: GuardedOptions) {
    const { backend } = fake;
    this.#inner = backend;
    this.#fake = fake;
    this.#dma = dma;
    this.#plan = plan;
    this.address = backend.address;
    this.configSize = backend.configSize;
    this.bars = backend.bars;
    this.memory = memory;
    this.removed = this.#controller.signal;
    this.#config = {
      read: (offset, width) => backend.readConfig(offset, width),
      write: (offset, width, value) => backend.writeConfig(offset, width, value),
    };
    const inner = backend.rawConfig ?? this.#config;
    this.rawConfig = {
      read: (offset, width) => this.#readConfig('raw-read', offset, width, inner),
      write: (offset, width, value) => this.#writeConfig('raw-write', offset, width, value, inner),
    };
    if (fake.reset !== undefined) this.reset = () => this.#reset();
    if (settles) {
      this.settle = () =>
        this.#step('settle', () => {
          if (!this.#fake.isBusMaster()) this.#dma.proven();
        });
    }
    if (isolates) {
      this.isolate = () =>
        this.#step('isolate', () => {
          this.#dma.cutOff();
        });
    }
  }

  /** True after {@link GuardedBackend.pull}. */
  get isPulled(): boolean {
    return this.#isPulled;
  }

  // ---- events

  /** Removes the function from the bus. @param isKnown The backend reports it at once; else reads of all ones do. */
  pull(isKnown: boolean): void {
    this.#isPulled = true;
    this.#dma.cutOff();
    if (isKnown) this.#controller.abort(new PciGoneError(this.address, 'removed by the test'));
  }

  /** Requests release of the function. Its DMA continues. */
  request(): void {
    const message = 'requested by the test';
    this.#controller.abort(new PciError('ERR_DMAPOOL_PCI_RELEASE_REQUESTED', this.address, message));
  }

  // ---- accesses

  /** Runs an awaited access with its fault from the plan. Accesses complete in order, as on a bus. */
  async #run<T>(kind: AccessKind, details: string, action: () => Promise<T>, ones?: T): Promise<T> {
    const fault = this.#begin(kind, details);
    const before = this.#last;
    let end: () => void = () => undefined;
    this.#last = new Promise((resolve) => (end = resolve));
    this.#inFlight++;
    try {
      await before;
      if (fault?.kind === 'slow') await sleep(fault.time);
      this.#arrive();
      if (fault?.kind === 'reject') throw this.#failure(kind, details);
      if (fault?.kind === 'ones' && ones !== undefined) return ones;
      if (this.#isPulled && ones !== undefined) return ones;
      const result = fault?.kind === 'lost' ? undefined : await action();
      if (fault?.kind === 'reject-late') throw this.#failure(kind, details);
      return result as T;
    } finally {
      end();
      if (--this.#inFlight === 0) this.#arrive();
    }
  }

  #begin(kind: AccessKind, details: string): Fault | null {
    if (this.#isClosed) this.usageErrors.push(`${kind} ${details} after close`);
    const fault = this.#plan.next(kind, details);
    this.#dma.strike();
    return fault;
  }

  #failure(kind: AccessKind, details: string): Error {
    return new PciError('ERR_DMAPOOL_PCI_FAULT', this.address, `${kind} ${details}: rejected by the test`);
  }

  /** Entry of every awaited access of a driver: throws after `removed`, and the error of an earlier posted write. */
  #enter(): void {
    this.removed.throwIfAborted();
    const error = this.#postedError;
    this.#postedError = null;
    if (error !== null) throw error;
  }

  #arrive(): void {
    for (const write of this.#posted.splice(0)) write();
  }

  async #readConfig(
    kind: 'config-read' | 'raw-read',
    offset: number,
    width: 8 | 16 | 32,
    space: RawConfigSpace,
  ): Promise<number> {
    const ones = 2 ** width - 1;
    // A raw read of the vendor ID of a present function never returns all ones.
    const mayBeOnes = offset !== VENDOR_ID || kind === 'config-read' || this.#isPulled;
    const value = await this.#run(
      kind,
      `0x${offset.toString(16)}`,
      () => (this.#isPulled ? Promise.resolve(ones) : space.read(offset, width)),
      mayBeOnes ? ones : undefined,
    );
    // The host has now read that bus mastering is off.
    if (offset === COMMAND && value !== ones && (value & BUS_MASTER) === 0 && !this.#fake.isBusMaster()) {
      // The read waits for DMA in flight, unless the backend has `settle` for that.
      if (this.settle === undefined || this.#dma.grants === 0) this.#dma.proven();
    }
    return value;
  }

  async #writeConfig(
    kind: 'config-write' | 'raw-write',
    offset: number,
    width: 8 | 16 | 32,
    value: number,
    space: RawConfigSpace,
  ): Promise<void> {
    await this.#run(kind, `0x${offset.toString(16)} = 0x${value.toString(16)}`, async () => {
      if (this.#isPulled) return;
      await space.write(offset, width, value);
      if (offset === COMMAND && this.#fake.isBusMaster()) this.#dma.resumed();
    });
  }

  async readConfig(offset: number, width: 8 | 16 | 32): Promise<number> {
    this.#enter();
    return this.#readConfig('config-read', offset, width, this.#config);
  }

  async writeConfig(offset: number, width: 8 | 16 | 32, value: number): Promise<void> {
    this.#enter();
    return this.#writeConfig('config-write', offset, width, value, this.#config);
  }

  async read(bar: number, offset: number, width: 8 | 16 | 32): Promise<number> {
    this.#enter();
    return this.#run('read', `0x${offset.toString(16)}`, () => this.#inner.read(bar, offset, width), 2 ** width - 1);
  }

  async read64(bar: number, offset: number): Promise<bigint> {
    this.#enter();
    return this.#run('read', `0x${offset.toString(16)}`, () => this.#inner.read64(bar, offset), 2n ** 64n - 1n);
  }

  write(bar: number, offset: number, width: 8 | 16 | 32, value: number): void {
    this.#post(`0x${offset.toString(16)} = 0x${value.toString(16)}`, () => {
      this.#inner.write(bar, offset, width, value);
    });
  }

  write64(bar: number, offset: number, value: bigint): void {
    this.#post(`0x${offset.toString(16)} = 0x${value.toString(16)}`, () => {
      this.#inner.write64(bar, offset, value);
    });
  }

  /** Posts a write. It reaches the device at once, or later but before the next awaited access, in order. */
  #post(details: string, write: () => void): void {
    const fault = this.#begin('write', details);
    if (this.removed.aborted) return;
    const arrive = (): void => {
      // Writes to a removed function are dropped.
      if (!this.#isPulled && !this.removed.aborted) write();
    };
    if (fault?.kind === 'reject') {
      this.#postedError ??= this.#failure('write', details);
      return;
    }
    this.#posted.push(arrive);
    if (fault?.kind === 'slow') {
      setTimeout(() => {
        this.#arrive();
      }, fault.time);
    } else if (this.#posted.length === 1 && this.#inFlight === 0) this.#arrive();
  }

  async flush(): Promise<void> {
    this.#enter();
    await this.#run('flush', '', () => this.#inner.flush());
  }

  async openInterrupts(kinds: readonly InterruptKind[], vectors: number): Promise<InterruptBackend | null> {
    this.#enter();
    const inner = await this.#run('interrupts', '', () => this.#inner.openInterrupts(kinds, vectors));
    return inner === null ? null : this.#guardInterrupts(inner);
  }

  #guardInterrupts(inner: InterruptBackend): InterruptBackend {
    return {
      kind: inner.kind,
      vectors: inner.vectors,
      level: inner.level,
      rearm: async (vector) => {
        this.#enter();
        return this.#run('rearm', String(vector), () => inner.rearm(vector));
      },
      ...(inner.disarm === undefined
        ? {}
        : {
            disarm: (vector: number) => {
              inner.disarm?.(vector);
            },
          }),
      listen: (listener) => {
        inner.listen(listener);
      },
      close: async () => {
        await this.#step('close', () => undefined);
        await inner.close();
      },
    };
  }

  /** Runs an operation of the backend itself. It is not ordered with accesses. */
  async #step(kind: AccessKind, action: () => void): Promise<void> {
    const fault = this.#begin(kind, '');
    if (fault?.kind === 'slow') await sleep(fault.time);
    if (fault?.kind === 'reject') throw this.#failure(kind, '');
    action();
  }

  /** Resets the function; works after `removed` too. */
  async #reset(): Promise<boolean> {
    const fault = this.#begin('reset', '');
    if (fault?.kind === 'hang') await this.#plan.ended;
    if (fault?.kind === 'slow') await sleep(fault.time);
    if (fault?.kind === 'reject' || fault?.kind === 'hang') throw this.#failure('reset', '');
    if (fault?.kind === 'lost') return false;
    if (this.#isPulled) throw this.#failure('reset', 'of a removed function');
    this.#fake.reset!();
    this.#dma.reset();
    this.#dma.proven();
    if (fault?.kind === 'reject-late') throw this.#failure('reset', '');
    return true;
  }

  async close(): Promise<void> {
    if (this.#isClosed) this.usageErrors.push('closed twice');
    if (this.#dma.isLive) this.usageErrors.push('closed while it may do DMA');
    const fault = this.#begin('close', '');
    this.#isClosed = true;
    if (fault?.kind === 'slow') await sleep(fault.time);
    if (fault?.kind === 'reject') throw this.#failure('close', '');
    await this.#inner.close();
  }
}

function sleep(time = 0): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, time));
}
