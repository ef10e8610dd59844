/**
 * A random history of the NVMe driver on a guarded fake controller: commands, faults at any access, removal, resets and closes
 * at any time, and a controller that violates the specification. Invariants:
 *
 * - no memory is freed while the controller may access it;
 * - after the driver is closed every promise is settled, and every rejection is a `DmaError`;
 * - a read returns the data written before, if the controller conforms to the specification;
 * - a successful close leaves no memory allocated; a failed one reports the memory that stays reserved, and a later close
 *   succeeds.
 */
import assert from 'node:assert/strict';
import { type CoherentMemory, DmaArgumentError, DmaError } from 'dmapool';
import { NvmeController, type NvmeNamespace, type NvmeOptions } from 'dmapool/drivers/nvme';
import { PciError, PciFunction } from 'dmapool/pci';
import { BLOCK, type SeenCommand } from '../drivers/nvme/fake-nvme.ts';
import { RelentlessNvme } from '../drivers/nvme/guarded-nvme.ts';
import { FaultPlan, randomFault } from '../guard/fault-plan.ts';
import type { GuardedBackend } from '../guard/guarded-backend.ts';
import { inVirtualTime, type VirtualClock } from '../guard/virtual-clock.ts';
import { RecordingLog } from '../support/log.ts';
import { Random } from '../support/random.ts';
import { HistoryOperations, waitFor } from './history-operations.ts';
import { countHostile, countOperations } from './operations.ts';

/** Optional parts of a history. Each has its own random sequence, so that its absence does not change the others. */
export type Feature = 'faults' | 'events' | 'hostile' | 'identity' | 'fates' | 'pressure';
export const FEATURES: readonly Feature[] = ['faults', 'events', 'hostile', 'identity', 'fates', 'pressure'];

export interface HistoryOptions {
  readonly seed: number;
  /** Maximum number of operations. */
  readonly operations?: number;
  /** Enabled features. Default: all. */
  readonly features?: ReadonlySet<Feature>;
}

const MOST_OPERATIONS = 40;
/** Blocks of most disks, and of some, for transfers with PRP lists of several pages. */
const BLOCKS = 1024;
const MANY_BLOCKS = 10_240;
const PAGE = 4096;

export class NvmeHistory {
  readonly #seed: number;
  readonly #most: number;
  readonly #features: ReadonlySet<Feature>;
  readonly #random: Random;
  readonly fake: RelentlessNvme;
  readonly plan: FaultPlan;
  readonly #backend: GuardedBackend;
  readonly #log = new RecordingLog();
  readonly #operations = new HistoryOperations();
  /** User memory of commands that failed without proof that the controller stopped. */
  readonly #keptMemory: CoherentMemory[] = [];
  /** Expected mark of each block of the disk; -1: unknown. */
  readonly #model: Int32Array;
  #pci: PciFunction | null = null;
  #nvme: NvmeController | null = null;
  #isHonest = true;
  /** No feature is enabled: every operation must succeed. */
  readonly #isPlain: boolean;

  constructor({ seed, operations = MOST_OPERATIONS, features = new Set(FEATURES) }: HistoryOptions) {
    this.#seed = seed;
    this.#most = operations;
    this.#features = features;
    this.#random = new Random(seed);
    this.#isPlain = this.#randomOf(8).chance(0.1);
    this.fake = new RelentlessNvme(this.#random.chance(0.02) ? MANY_BLOCKS : BLOCKS);
    this.#model = new Int32Array(this.fake.disk.length / BLOCK);
    this.plan = this.#plan();
    const random = this.#randomOf(1);
    const settings = { resets: random.chance(0.6), isolates: random.chance(0.3), settles: random.chance(0.2) };
    this.#backend = this.fake.guard(this.plan, settings);
  }

  /** Returns the random sequence of a subject. */
  #randomOf(subject: number): Random {
    return new Random(this.#seed + subject * 0x9e37_79b1);
  }

  #has(feature: Feature): boolean {
    return !this.#isPlain && this.#features.has(feature);
  }

  /** Operations, log and accesses, for the report of a failure. */
  get report(): string {
    return [...this.#operations.lines, ...this.#log.lines, ...this.plan.trace].join('\n    ');
  }

  async run(): Promise<void> {
    await inVirtualTime((clock) => this.#run(clock), { time: 20_000_000, steps: 500_000 });
  }

  #plan(): FaultPlan {
    const random = this.#randomOf(2);
    if (!this.#has('faults') || random.chance(0.4)) return new FaultPlan();
    // Opening takes about 40 accesses. Most histories have their first fault later.
    const from = random.chance(0.2) ? 0 : random.below(300);
    const single = random.chance(0.3);
    const share = random.pick([0.005, 0.02, 0.1, 0.3]);
    let run = 0;
    return new FaultPlan((access, number) => {
      if (single ? number !== from : number < from) return null;
      if (run > 0) run--;
      else if (!single && !random.chance(share)) return null;
      else if (!single && random.chance(0.1)) run = random.below(30);
      return randomFault(random, access);
    });
  }

  // ---- the controller

  #setUp(): void {
    const { fake } = this;
    const random = this.#randomOf(3);
    const stride = random.pick([0, 0, 0, 1, 4]);
    fake.setCapabilities({ mqes: random.pick([1, 2, 7, 63, 1023, 1023]), to: 1 + random.below(3), stride });
    fake.stride = 4 << stride;
    fake.version = random.pick([0x0001_0000, 0x0001_0200, 0x0001_0400]);
    fake.mdts = random.pick([0, 0, 1, 3, 5]);
    fake.maxVectors = random.pick([1, 2, 8]);
    if (!this.#has('fates')) return;
    fake.stopTime = random.chance(0.2) ? random.below(3000) : 0;
    fake.shutdownTime = random.chance(0.2) ? random.below(3000) : 0;
    fake.becomesReady = !random.chance(0.02);
    fake.stops = !random.chance(0.1);
    // A controller that never became ready reads as stopped at once.
    if (!fake.becomesReady) [fake.stops, fake.stopTime] = [true, 0];
    fake.busMasterSticks = random.chance(0.05);
    fake.canAbort = !random.chance(0.3);
    fake.interruptsWork = !random.chance(0.03);
    fake.interruptsAtDeletion = random.chance(0.02);
    if (random.chance(0.3)) {
      fake.order = (commands) => {
        for (let i = commands.length - 1; i > 0; i--) {
          const j = random.below(i + 1);
          [commands[i], commands[j]] = [commands[j]!, commands[i]!];
        }
        return commands;
      };
    }
  }

  #setFates(): void {
    const { fake } = this;
    const random = this.#randomOf(4);
    const hostile = this.#has('hostile') && random.chance(0.5) ? random.pick([0.05, 0.5, 3]) : 0;
    if (hostile > 0) this.#isHonest = false;
    const hangs = hostile > 0 ? 0.2 : random.pick([0, 0.02, 0.2]);
    const fails = random.pick([0, 0.02, 0.1]);
    const fate = (command: SeenCommand): 'hang' | number | null => {
      if (hostile > 0) this.#lie(random, command.queue, hostile);
      if (!fake.reachesMemory || !fake.has(command)) return 'hang';
      if (!this.#has('fates')) return null;
      if (random.chance(hangs)) {
        if (random.chance(0.5)) this.#finishLater(command, random);
        if (hostile > 0) this.#flood(random, command.queue, 1 + random.below(100));
        return 'hang';
      }
      return random.chance(fails) ? random.pick([0x01, 0x02, 0x06, 0x07, 0x08, 0x0b, 0x80, 0x281, 0x7ff]) : null;
    };
    fake.fate = fate;
    fake.onAdmin = (command) => {
      // Rarely a fault while the controller is initialized.
      const isSetUp = [0x01, 0x05, 0x06, 0x09].includes(command.opcode);
      if (isSetUp && !random.chance(0.1)) return fake.reachesMemory && fake.has(command) ? null : 'hang';
      return fate(command);
    };
  }

  #finishLater(command: SeenCommand, random: Random): void {
    setTimeout(() => {
      const at = this.fake.hung.indexOf(command);
      if (at < 0 || !this.fake.reachesMemory) return;
      this.fake.hung.splice(at, 1);
      if (this.fake.has(command)) this.fake.finish(command);
    }, random.below(200));
  }

  /** Writes completions that violate the specification. @param share Their average number. */
  #lie(random: Random, queue: number, share: number): void {
    for (let left = share; left > 0 && (left >= 1 || random.chance(left)); left--) {
      this.#lieAbout(random, queue, random.chance(0.05) ? random.below(40) : 1);
      if (random.chance(0.1)) this.fake.interrupt(random.below(4));
    }
  }

  /** Fills the completion queue in each turn, mostly with completions of commands that were never submitted. */
  #flood(random: Random, queue: number, turns: number): void {
    const { fake } = this;
    for (let left = fake.room(queue); left > 0 && fake.reachesMemory; left--) {
      const cid = random.below(0x1_0000);
      if (fake.post(queue, this.#completion(random, queue, cid))) countHostile(1);
    }
    if (turns > 1 && fake.reachesMemory) {
      setImmediate(() => {
        this.#flood(random, queue, turns - 1);
      });
    }
  }

  #lieAbout(random: Random, queue: number, repeats: number): void {
    const { fake } = this;
    const known = random.chance(0.3) ? fake.inFlight(queue) : [];
    const cid = known.length > 0 ? random.pick(known) : random.below(0x1_0000);
    for (let i = 0; i < repeats; i++) {
      if (fake.post(queue, this.#completion(random, queue, cid))) countHostile(1);
    }
  }

  #completion(random: Random, queue: number, cid: number): Parameters<RelentlessNvme['post']>[1] {
    switch (random.below(8)) {
      case 0:
        return {
          cid: 0xffff,
          status: 0x7fff,
          result: -1,
          reserved: -1,
          submissionHead: 0xffff,
          submissionQueue: 0xffff,
        };
      case 1:
        // Another command identifier of the same slot.
        return { cid: (cid + 0x400 * (1 + random.below(62))) & 0xffff, status: 0 };
      case 2:
      case 3:
        return { cid, status: 0, wrongPhase: this.fake.mayMistakePhase(queue) };
      case 4:
        return { cid, status: random.below(0x8000), result: random.next() };
      case 5:
        return { cid, status: 0, submissionQueue: random.below(0x1_0000), submissionHead: random.below(0x1_0000) };
      case 6:
        return { cid: cid ^ (1 << random.below(16)), status: random.below(0x8000) };
      default:
        return { cid, status: 0, result: random.next() };
    }
  }

  #setIdentity(): void {
    const random = this.#randomOf(5);
    const setCommands = (cns: number, view: DataView): void => {
      if (cns === 1) view.setUint16(520, 0xc, true);
    };
    this.fake.onIdentify = setCommands;
    if (!this.#has('identity') || !random.chance(0.2)) return;
    this.#isHonest = false;
    this.fake.onIdentify = (cns, view) => {
      setCommands(cns, view);
      const places = random.pick([1, 1, 3, 20, 4096]);
      for (let i = 0; i < places; i++) {
        // A field that the driver reads, or any byte.
        const field = random.pick([0, 4, 25, 26, 33, 77, 82, 88, 128, 130, 131, 258, 516, 520, 525]);
        const at = random.chance(0.7) ? field : random.below(4096);
        view.setUint8(at, random.pick([0, 1, 9, 12, 0x7f, 0xff, random.below(256)]));
      }
    };
  }

  // ---- the history

  async #run(clock: VirtualClock): Promise<void> {
    const { fake } = this;
    this.#setUp();
    this.#setFates();
    this.#setIdentity();
    this.#setPressure();
    clock.onTurn = () => {
      fake.dma.strike();
    };
    this.#schedule();
    try {
      await this.#operate();
    } finally {
      clock.onTurn = () => undefined;
    }
    countOperations(this.#operations.count);
    fake.dma.check();
    // A shutdown at its time limit is cut short. A nonconforming controller makes the host ring doorbells of absent queues.
    const expected = this.#isHonest && this.plan.faults === 0 ? /^disabled during/ : /^disabled during|^doorbell of/;
    const faults = fake.faults.filter((fault) => !expected.test(fault));
    assert.deepEqual(faults, [], 'faults of the controller');
    assert.deepEqual(this.#backend.usageErrors, [], 'usage errors of the backend');
  }

  #setPressure(): void {
    const random = this.#randomOf(6);
    if (!this.#has('pressure') || !random.chance(0.2)) return;
    const share = random.pick([0.02, 0.2]);
    this.fake.guarded.onAlloc = () => !random.chance(share);
  }

  /** Schedules events before random accesses. */
  #schedule(): void {
    const random = this.#randomOf(7);
    if (!this.#has('events')) return;
    const events: readonly (() => void)[] = [
      () => {
        this.#backend.pull(random.chance(0.5));
      },
      () => {
        this.#backend.request();
      },
      () => void this.#operations.run('close', () => this.#nvme?.close()),
      () => void this.#operations.run('close', () => this.#nvme?.close()),
      () => void this.#operations.run('pci.close', () => this.#pci?.close()),
      () => void this.#operations.run('stopDma', () => this.#pci?.stopDma()),
      () => {
        this.fake.fail();
      },
      () => {
        for (const command of [...this.fake.hung]) this.#finishLater(command, random);
      },
      () => {
        try {
          this.#pci?.device.detach();
        } catch (error) {
          assert.ok(error instanceof DmaError, String(error));
        }
      },
    ];
    const count = random.pick([0, 0, 1, 1, 2, 4]);
    for (let i = 0; i < count; i++) this.plan.before(random.below(random.pick([60, 300, 900])), random.pick(events));
  }

  async #operate(): Promise<void> {
    const random = this.#random;
    const pci = await this.#open();
    if (pci === null) return;
    const options: NvmeOptions = {
      queues: random.pick([1, 1, 2, 3]),
      queueDepth: random.pick([1, 2, 8, 64, 64, 256]),
      timeout: random.pick([5, 50, 1000, 30_000]),
      bounceMemory: 4 * 1024 * 1024,
      interrupts: random.pick<NonNullable<NvmeOptions['interrupts']>>([
        {},
        {},
        {},
        { kinds: ['poll'], pollInterval: 20 },
        { busyPoll: 0.05 },
      ]),
    };
    this.#nvme = await this.#operations.run('open', () => NvmeController.open(pci, options));
    if (this.#nvme !== null) {
      const disk = await this.#operations.run('namespace', () => this.#nvme?.namespace(1));
      // Follow the reported size, also if it is wrong.
      if (disk !== null) this.fake.blockSize = disk.blockSize;
      const workers = random.pick([1, 2, 4, 16]);
      await waitFor(Promise.all(Array.from({ length: workers }, () => this.#work(disk, random, workers))));
    }
    await this.#end(pci, random);
  }

  async #open(): Promise<PciFunction | null> {
    try {
      this.#pci = await PciFunction.open(this.#backend, { log: this.#log });
    } catch (error) {
      assert.ok(error instanceof DmaError, `PciFunction.open rejects with ${String(error)}`);
      return null;
    }
    this.fake.dma.target = this.fake.target = this.#pci.device;
    return this.#pci;
  }

  async #work(disk: NvmeNamespace | null, random: Random, workers: number): Promise<void> {
    while (this.#operations.count < this.#most) {
      // A failed or closed driver rejects at once.
      if (this.#pci!.closed || this.#operations.failed.length > 30) return;
      await this.#operation(disk, random);
      if (random.chance(0.1)) await new Promise((resolve) => setTimeout(resolve, random.below(20)));
      if (workers === 1 && random.chance(0.1)) return;
    }
  }

  async #operation(disk: NvmeNamespace | null, random: Random): Promise<void> {
    const nvme = this.#nvme!;
    const timeout = random.chance(0.2) ? { timeout: random.pick([1, 20, 500]) } : {};
    const kind = disk === null ? 6 + random.below(6) : random.below(12);
    switch (kind) {
      case 0:
      case 1:
      case 2:
        return this.#transfer(disk!, random);
      case 3:
      case 4:
        return this.#transferDma(disk!, random);
      case 5:
        await this.#operations.run('flush', () => disk!.flush(timeout));
        break;
      case 6:
        await this.#operations.run('identify', () =>
          nvme.admin({ opcode: 6, cdw10: 1 }, new Uint8Array(PAGE), timeout),
        );
        break;
      case 7:
        await this.#operations.run('get feature', () => nvme.admin({ opcode: 0x0a, cdw10: 6 }, undefined, timeout));
        break;
      case 8:
        await this.#operations.run('vendor command', () => nvme.admin({ opcode: 0xc2 }, new Uint8Array(512), timeout));
        break;
      case 9:
        await this.#operations.run('namespaces', () => nvme.namespaceIds());
        break;
      case 10:
        if (disk !== null && disk.blockSize === BLOCK) await this.#passThrough(disk, random);
        break;
      default:
        if (disk === null) break;
        this.#forget(0, 16);
        await this.#operations.run('deallocate', () => disk.deallocate([{ lba: 0, blocks: 16 }], timeout));
        await this.#operations.run('write zeroes', () => disk.writeZeroes(0, 16, timeout));
    }
  }

  async #passThrough(disk: NvmeNamespace, random: Random): Promise<void> {
    const count = 1 + random.below(20);
    const lba = this.#place(disk, random, count);
    const buffer = new Uint8Array(count * BLOCK);
    await this.#operations.run('io', () =>
      this.#nvme!.io({ opcode: 2, nsid: 1, cdw10: lba, cdw12: count - 1 }, buffer),
    );
  }

  /** Returns a random start for `count` blocks, inside both the reported and the actual disk. */
  #place(disk: NvmeNamespace, random: Random, count: number): number {
    const blocks = Math.min(disk.blocks, this.#model.length);
    return count >= blocks ? 0 : random.below(blocks - count + 1);
  }

  #count(disk: NvmeNamespace, random: Random): number {
    const most = Math.min(disk.blocks, this.#model.length);
    const wanted = random.pick([1, 1, 1, 1, 8, 8, 9, 16, 16, 33, 64, random.chance(0.1) ? 5000 : 300]);
    return Math.max(1, Math.min(most, wanted));
  }

  #forget(lba: number, count: number): void {
    this.#model.fill(-1, lba, lba + count);
  }

  /** Writes each block's mark to its first and last bytes. */
  #fill(bytes: Uint8Array, blockSize: number, marks: readonly number[]): void {
    marks.forEach((mark, i) => {
      new DataView(bytes.buffer, bytes.byteOffset).setInt32(i * blockSize, mark, true);
      bytes[(i + 1) * blockSize - 1] = mark & 0xff;
    });
  }

  #checkRead(bytes: Uint8Array, blockSize: number, expected: readonly number[], name: string): void {
    if (!this.#isHonest || blockSize !== BLOCK) return;
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    expected.forEach((mark, i) => {
      if (mark < 0) return;
      const isSame = view.getInt32(i * blockSize, true) === mark && bytes[(i + 1) * blockSize - 1] === (mark & 0xff);
      assert.ok(isSame, `${name}: block ${String(i)} is not what was written`);
    });
  }

  /** Transfers in flight. The results of two that overlap are unknown. */
  readonly #running = new Set<{ readonly lba: number; readonly count: number; isAlone: boolean }>();

  /** Records a transfer. @returns A function that ends it, and returns whether no other overlapped it. */
  #begin(lba: number, count: number, isWrite: boolean): () => boolean {
    const transfer = { lba, count, isAlone: true };
    for (const other of this.#running) {
      if (other.lba >= lba + count || lba >= other.lba + other.count) continue;
      other.isAlone = transfer.isAlone = false;
      this.#forget(other.lba, other.count);
    }
    if (isWrite || !transfer.isAlone) this.#forget(lba, count);
    this.#running.add(transfer);
    return () => {
      this.#running.delete(transfer);
      return transfer.isAlone;
    };
  }

  async #transfer(disk: NvmeNamespace, random: Random): Promise<void> {
    const count = this.#count(disk, random);
    const lba = this.#place(disk, random, count);
    const bytes = new Uint8Array(count * disk.blockSize);
    await this.#transferBytes(disk, random, lba, count, bytes, random.chance(0.5) ? 'write' : 'read', (isWrite) =>
      isWrite ? disk.write(lba, bytes, { fua: random.chance(0.2) }) : disk.read(lba, bytes),
    );
  }

  async #transferBytes(
    disk: NvmeNamespace,
    random: Random,
    lba: number,
    count: number,
    bytes: Uint8Array,
    kind: 'read' | 'write',
    call: (isWrite: boolean) => Promise<void>,
  ): Promise<unknown> {
    const isWrite = kind === 'write';
    const name = `${kind} ${String(count)} at ${String(lba)}`;
    const marks = Array.from({ length: count }, (_, i) => (isWrite ? random.below(2 ** 31) : this.#model[lba + i]!));
    if (isWrite) this.#fill(bytes, disk.blockSize, marks);
    const end = this.#begin(lba, count, isWrite);
    let error: unknown = null;
    await this.#operations.run(name, () =>
      call(isWrite).catch((reason: unknown) => {
        error = reason;
        throw reason;
      }),
    );
    const isAlone = end();
    if (error === null && isAlone) {
      if (isWrite) marks.forEach((mark, i) => (this.#model[lba + i] = disk.blockSize === BLOCK ? mark : -1));
      else this.#checkRead(bytes, disk.blockSize, marks, name);
    }
    return error;
  }

  /** Transfers to or from user memory, and frees it as soon as the driver allows it. */
  async #transferDma(disk: NvmeNamespace, random: Random): Promise<void> {
    const { device } = this.#pci!;
    const count = Math.min(this.#count(disk, random), 300);
    const lba = this.#place(disk, random, count);
    const size = count * disk.blockSize;
    if (size > 4 * 1024 * 1024) return;
    let memory: CoherentMemory | null;
    try {
      memory = device.allocCoherent(size);
    } catch (error) {
      assert.ok(error instanceof DmaError, String(error));
      return;
    }
    if (memory === null) return;
    const bytes = new Uint8Array(memory.buffer, memory.byteOffset, size);
    const kind = random.chance(0.5) ? 'write' : 'read';
    const given = { dma: memory.dma, size };
    // In one transfer, or in two by one call.
    const first = random.below(count) * disk.blockSize;
    const lbas = [lba, lba + first / disk.blockSize].slice(first === 0 ? 1 : 0);
    const pieces = [
      { dma: memory.dma, size: first },
      { dma: memory.dma + first, size: size - first },
    ].slice(first === 0 ? 1 : 0);
    const isBulk = random.chance(0.3);
    const error = await this.#transferBytes(disk, random, lba, count, bytes, kind, (isWrite) => {
      if (isBulk) return isWrite ? disk.writeDmaBulk(lbas, pieces) : disk.readDmaBulk(lbas, pieces);
      return isWrite ? disk.writeDma(lba, given) : disk.readDma(lba, given);
    });
    if (error instanceof PciError && error.code === 'ERR_DMAPOOL_PCI_DMA_ACTIVE') this.#keptMemory.push(memory);
    else device.freeCoherent(memory);
  }

  // ---- the end

  async #end(pci: PciFunction, random: Random): Promise<void> {
    const nvme = this.#nvme;
    const calls = [() => nvme?.close(), ...(random.chance(0.3) ? [() => nvme?.close(), () => pci.close()] : [])];
    await Promise.all(calls.map((call) => this.#operations.run('close', call)));
    const relent = (): void => {
      this.fake.busMasterSticks = false;
      this.fake.stops = true;
    };
    await this.#operations.end({ pci, plan: this.plan, memory: this.fake.guarded, log: this.#log, relent });
    for (const { name, error } of this.#operations.failed) {
      const isExpected = !this.#isPlain || error instanceof DmaArgumentError;
      assert.ok(isExpected, `${name} fails without a fault: ${String(error)}`);
    }
    // The controller is stopped now, so the kept memory may be freed.
    for (const memory of this.#keptMemory.splice(0)) pci.device.freeCoherent(memory);
    assert.equal(this.fake.guarded.bytesAllocated, 0, 'bytes that are allocated after the function was closed');
    assert.equal(pci.device.bytesAllocated, 0);
  }
}
