/** What the histories of drivers on guarded devices have in common: the function, what happens to it, and the accounts at the end. */
import assert from 'node:assert/strict';
import { DmaError, DmaReleaseError, HeapMemory } from 'dmapool';
import { PciError, PciFunction } from 'dmapool/pci';
import { ModelHost } from '../drivers/model-host.ts';
import { type AccessKind, type Decide, type Fault, FaultPlan, randomFault } from '../guard/fault-plan.ts';
import { GuardedBackend, type GuardedFake } from '../guard/guarded-backend.ts';
import { GuardedMemory } from '../guard/guarded-memory.ts';
import { RelentlessDma } from '../guard/relentless-dma.ts';
import { RecordingLog } from '../support/log.ts';
import { Random } from '../support/random.ts';
import { countOperations } from './operations.ts';

/** Accesses of a history among which something happens. */
const SPANS: readonly number[] = [60, 200, 800, 3000];
/** Shares of all accesses that something goes wrong with, in histories of many faults. */
const SHARES: readonly number[] = [0.001, 0.01, 0.1, 0.5];

/** Milliseconds that all slow accesses of a history take. */
const MOST_SLOW_TIME = 60_000;

/** Calls that the report of a failure shows. */
const SHOWN = 40;

/** The reason that the history's own signals are aborted with. */
export class Aborted extends Error {}

export interface CaseOptions {
  /** Only what a good device, a good system and a patient user do. */
  readonly peaceful: boolean;
  /** Nothing goes wrong but what the device writes to memory. Default: false. */
  readonly undisturbed?: boolean;
}

/** A device with a driver, and what may happen to them. */
export class GuardedCase {
  readonly random: Random;
  readonly host: ModelHost;
  readonly log = new RecordingLog();
  readonly peaceful: boolean;
  readonly #undisturbed: boolean;
  readonly #memory: GuardedMemory;
  readonly #dma: RelentlessDma;
  readonly #plan: FaultPlan;
  #backend!: GuardedBackend;
  #pci: PciFunction | null = null;
  /** The access from which on something may go wrong; null: not yet. */
  #since: number | null;
  readonly #isLate: boolean;
  /** Milliseconds that slow accesses took. */
  #slowTime = 0;
  /** A reset of the function never ends. */
  #isResetForEver = false;
  readonly #calls: Promise<unknown>[] = [];
  readonly #resets: Promise<unknown>[] = [];
  /** Calls and how they ended, for the report of a failure. */
  readonly #history: string[] = [];
  readonly #controllers: AbortController[] = [];

  constructor(seed: number, { peaceful, undisturbed = peaceful }: CaseOptions) {
    this.random = new Random(seed);
    this.peaceful = peaceful;
    this.#undisturbed = undisturbed;
    const heap = new HeapMemory({ limit: 8 * 1024 * 1024, step: 64 * 1024 });
    this.#memory = new GuardedMemory(heap);
    this.#dma = new RelentlessDma(this.#memory);
    const own = new Random(seed ^ 0x6a09_e667);
    this.host = new ModelHost(heap, this.#dma, own);
    const decide = undisturbed ? () => null : faultsOf(own);
    // Opening takes most accesses: what goes wrong does so from the beginning, or only once the driver is open.
    this.#isLate = own.chance(0.6);
    this.#since = this.#isLate ? null : 0;
    this.#plan = new FaultPlan((access, number) => {
      if (this.#since === null) return null;
      const fault = decide(access, number - this.#since);
      if (access === 'reset' && fault?.kind === 'hang') this.#isResetForEver = true;
      if (fault?.kind !== 'slow') return fault;
      // Accesses wait for those before them: all of it must be over before the accounts are made.
      this.#slowTime += fault.time ?? 0;
      return this.#slowTime > MOST_SLOW_TIME ? { kind: 'slow', time: 1 } : fault;
    });
  }

  /** The function. */
  get pci(): PciFunction {
    return this.#pci!;
  }

  get backend(): GuardedBackend {
    return this.#backend;
  }

  /** Runs the history; an error of it says what was logged, and which accesses came before. */
  async run(history: () => Promise<void>): Promise<void> {
    try {
      await history();
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      const lines = [
        message,
        ...this.log.lines,
        'the last accesses:',
        ...this.#plan.trace,
        ...this.#history.slice(-SHOWN),
      ];
      throw new Error(lines.join('\n'), { cause: error });
    }
  }

  /** Opens the function of a device. Null when that fails: the history is over. */
  async open(fake: GuardedFake): Promise<PciFunction | null> {
    const { random } = this;
    const [dma, memory, plan] = [this.#dma, this.#memory, this.#plan];
    const isolates = !this.#undisturbed && random.chance(0.2);
    const settles = !this.#undisturbed && random.chance(0.2);
    this.#backend = new GuardedBackend({ fake, memory, dma, plan, isolates, settles });
    const pci = await this.call('open the function', () => PciFunction.open(this.#backend, { log: this.log }));
    if (pci === null) return null;
    this.#pci = pci;
    this.host.target = pci.device;
    return pci;
  }

  /** Something happens just before an access, an early one or a late one. */
  at(action: () => void): void {
    const { random } = this;
    this.#plan.before(this.#plan.accesses + random.below(random.pick(SPANS)), action);
  }

  /**
   * What may happen to any function, from now on; called when the function is open, and when its driver is: one of them counts.
   *
   * @param close Closes the driver.
   */
  disturb(when: 'function' | 'driver', close: () => void): void {
    if (this.#undisturbed || (when === 'driver') !== this.#isLate) return;
    if (this.#isLate) this.#since = this.#plan.accesses;
    const { random } = this;
    const pci = this.pci;
    for (let n = random.chance(0.4) ? 0 : 1 + random.below(3); n > 0; n--) {
      switch (random.below(8)) {
        case 0:
          this.at(() => {
            this.#backend.pull(random.chance(0.5));
          });
          break;
        case 1:
          this.at(() => {
            if (!this.#backend.removed.aborted) this.#backend.request();
          });
          break;
        case 2:
        case 3:
          this.at(close);
          break;
        case 4:
          this.at(() => {
            this.start('close the function', () => pci.close());
          });
          break;
        case 5:
          this.at(() => {
            const reset = this.call('reset the function', () => pci.reset());
            this.#resets.push(reset);
            reset.catch(() => undefined);
          });
          break;
        case 6:
          this.at(() => {
            this.start('detach the device', () => {
              pci.device.detach();
            });
          });
          break;
        default:
          this.at(() => {
            for (const controller of this.#controllers) controller.abort(new Aborted('by the history'));
          });
      }
    }
  }

  /** A signal that may be aborted at any time. */
  signal(): AbortSignal {
    const controller = new AbortController();
    this.#controllers.push(controller);
    return controller.signal;
  }

  /** Makes a call, which ends with a value or an error of the package; null for an error. */
  async call<T>(what: string, action: () => T | Promise<T>): Promise<T | null> {
    countOperations(1);
    this.#note(what);
    try {
      const result = await action();
      this.#note(`${what}: done`);
      return result;
    } catch (error) {
      this.#note(`${what}: ${String(error)}`);
      if (error instanceof assert.AssertionError) throw error;
      if (error instanceof Aborted) return null;
      if (!(error instanceof DmaError)) {
        throw new Error(`${what} ends with an error of no type of the package: ${String(error)}`, { cause: error });
      }
      if (this.peaceful) throw new Error(`${what} fails: ${error.message}`, { cause: error });
      return null;
    }
  }

  #note(line: string): void {
    this.#history.push(`${String(this.#plan.accesses)} ${line}`);
  }

  /** {@link GuardedCase.call}, without waiting for its end. */
  start(what: string, action: () => unknown): void {
    const call = this.call(what, action);
    this.#calls.push(call);
    // Looked at in the end.
    call.catch(() => undefined);
  }

  /** Waits for all calls that were started. */
  async ended(): Promise<void> {
    for (const call of this.#calls) await call;
    if (!this.#isResetForEver) await Promise.all(this.#resets);
  }

  /**
   * Closes all, under whatever goes wrong; then, when nothing goes wrong any more, once more. With proof that the device
   * stopped no memory may remain; without it must be counted and reported.
   *
   * @param close Closes the driver, if it was opened.
   * @param relent The device does what it is told.
   */
  async end(close: (() => Promise<void>) | null, relent: () => void): Promise<void> {
    const pci = this.pci;
    const { device } = pci;
    if (close !== null) await this.#close('close the driver', close);
    await this.#close('close the function', () => pci.close());
    await this.ended();
    this.#plan.end();
    relent();
    // All ones are no proof while a reset runs, and this one does not end.
    const isLost = this.#isResetForEver && this.#backend.isPulled;
    for (const again of [close, () => pci.close()]) {
      // Accesses that take their time are under way still.
      for (let tries = 4; tries > 0; tries--) {
        const error: unknown = await again?.().then(
          () => null,
          (reason: unknown) => reason,
        );
        // What failed before, and was told then.
        assert.ok((error ?? null) === null || error instanceof DmaError, String(error));
        if (!this.#kept(error)) break;
        if (tries === 1) assert.ok(isLost, 'the device does what it is told, and memory is kept');
        await new Promise((resolve) => setTimeout(resolve, 30_000));
      }
    }
    if (isLost && device.bytesAllocated > 0) assert.match(this.log.text, /kept|stay reserved/);
    else {
      assert.equal(device.bytesAllocated, 0, 'bytes that stay with the device');
      assert.equal(this.#memory.bytesAllocated, 0, 'bytes that stay with the source');
    }
    assert.deepEqual(this.#backend.misuse, []);
    this.#dma.check();
    if (this.peaceful) assert.equal(this.log.text, '');
  }

  /** When the call says that memory is kept, so do the counters and the log; else none is. */
  async #close(what: string, close: () => Promise<void>): Promise<void> {
    let kept = false;
    await this.call(what, async () => {
      try {
        await close();
      } catch (error) {
        kept = this.#kept(error);
        throw error;
      }
    });
    if (kept && this.pci.device.bytesAllocated > 0) assert.match(this.log.text, /kept|stay reserved/);
  }

  #kept(error: unknown): boolean {
    if (error instanceof DmaReleaseError) return error.errors.some((one) => this.#kept(one));
    return error instanceof PciError && error.code === 'ERR_DMAPOOL_PCI_DMA_ACTIVE';
  }
}

/** None, a few, or many and in runs. */
function faultsOf(random: Random): Decide {
  const kind = random.below(10);
  if (kind < 4) return () => null;
  if (kind < 8) {
    const faults = new Set(Array.from({ length: 1 + random.below(4) }, () => random.below(random.pick(SPANS))));
    return (access, number) => (faults.has(number) ? faultOf(random, access) : null);
  }
  const share = random.pick(SHARES);
  let run = 0;
  return (access) => {
    if (run > 0) run--;
    else if (!random.chance(share)) return null;
    else if (random.chance(0.1)) run = random.below(20);
    return faultOf(random, access);
  };
}

/** No access of a driver's hangs for ever: a processor would hang with it. */
function faultOf(random: Random, access: AccessKind): Fault {
  const fault = randomFault(random, access);
  return fault.kind === 'hang' && access === 'read' ? { kind: 'slow', time: 5100 } : fault;
}
