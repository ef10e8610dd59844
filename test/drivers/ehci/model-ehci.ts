/**
 * A model of an EHCI controller that executes its asynchronous schedule (EHCI 1.0, chapters 3 and 4), with behaviour
 * that QEMU's lacks: it caches unlinked queue heads until the doorbell, answers the doorbell too early, continues for a
 * while after the answer, and writes descriptors back wrongly; ports change at any time; interrupts come in floods, or
 * never.
 *
 * Its DMA is relentless: it may access a queue head from the moment that it read it in the ring until the head is
 * unlinked and one or two doorbells are answered, and the attached descriptors until the transfer is written back
 * completely.
 */
import type { Grant, RelentlessDma } from '../../guard/relentless-dma.ts';
import type { Random } from '../../support/random.ts';
import type { ModelHost } from '../model-host.ts';
import type { UsbDisk } from './usb-disk.ts';

/** Offset of the operational registers. */
export const OPERATIONAL = 0x20;
export const PORTS = 2;
const REG = { command: 0x00, status: 0x04, enable: 0x08, asyncList: 0x18, configured: 0x40, firstPort: 0x44 } as const;
const COMMAND = { run: 0x1, reset: 0x2, asyncEnable: 0x20, doorbell: 0x40 } as const;
const STATUS = {
  transfer: 0x1,
  error: 0x2,
  portChange: 0x4,
  systemError: 0x10,
  asyncAdvance: 0x20,
  halted: 0x1000,
  asyncActive: 0x8000,
} as const;
const CAUSES = 0x3f;
const PORT = { connected: 1, connectChange: 2, enabled: 4, enableChange: 8, reset: 0x100, power: 0x1000 } as const;
const PORT_CHANGES = 0x2a;
const PORT_WRITABLE = 0x3000;
/** Queue head, queue element transfer descriptor, and their tokens (3.5, 3.6), in words and bits. */
const QH = { link: 0, characteristics: 1, current: 3, overlay: 4, words: 17 } as const;
const QTD = { next: 0, alternate: 1, token: 2, buffers: 3, words: 13 } as const;
const TOKEN = { transactionError: 0x08, babble: 0x10, bufferError: 0x20, halted: 0x40, active: 0x80 } as const;
const ERROR_COUNT = 0xc00;
const INTERRUPT = 0x8000;
const TOGGLE = 0x8000_0000;
const PID_OUT = 0;
const PID_IN = 1;
const PAGE = 4096;
/** Maximum number of queue heads in a ring, and of qTDs in a chain, that it reads. */
const MOST = 300;

/** The behaviour of the controller. */
export interface EhciBehaviour {
  /** Share of the queue checks at which descriptors are written wrongly, 0 to 1. */
  readonly hostility: number;
  /** Number of transactions without a fault at the start. */
  readonly patience: number;
  /** Milliseconds until it halts, and until a reset ends; negative: never. */
  readonly stopTime: number;
  /** The doorbell: answered, answered once before the queue head is out of the cache, or never. */
  readonly doorbell: 'right' | 'early' | 'never';
  /** Milliseconds for which it continues a transfer of an unlinked queue head after its answer. */
  readonly linger: number;
  /** Milliseconds that a port's reset continues after software ends it; negative: it does not end. */
  readonly portResetTime: number;
  /** Share of the schedule checks at which bits of a port change. */
  readonly restlessPorts: number;
  readonly interrupts: 'right' | 'flood' | 'never';
  /** Share of the schedule checks at which it halts, or reports a host system error. */
  readonly breakdowns: number;
}

export const WELL_BEHAVED: EhciBehaviour = {
  hostility: 0,
  patience: 0,
  stopTime: 0,
  doorbell: 'right',
  linger: 0,
  portResetTime: 0,
  restlessPorts: 0,
  interrupts: 'right',
  breakdowns: 0,
};

/** A qTD of a transfer. */
interface Element {
  readonly address: number;
  readonly token: number;
  readonly next: number;
  readonly alternate: number;
  readonly buffers: readonly number[];
}

/** A cached queue head. */
interface Queue {
  readonly address: number;
  readonly grant: Grant;
  /** The address of the queue's next qTD. */
  next: number;
  toggle: 0 | 1;
  halted: boolean;
  /** The transfer in execution: all its qTDs, and the next one. */
  transfer: Transfer | null;
}

interface Transfer {
  readonly elements: readonly Element[];
  /** True: the transfer is never done, whatever is written. */
  readonly endless: boolean;
  readonly grants: readonly Grant[];
  at: number;
  /** Number of bytes moved for the current qTD. */
  moved: number;
}

export class EhciModel {
  behaviour: EhciBehaviour;
  /** The device on each port. */
  readonly disks: (UsbDisk | null)[] = new Array<UsbDisk | null>(PORTS).fill(null);
  /** Called when a cause of interrupts is set. */
  onInterrupt: () => void = () => undefined;
  /** Number of descriptors written back contrary to the specification. */
  hostileDescriptors = 0;
  readonly #host: ModelHost;
  readonly #dma: RelentlessDma;
  readonly #random: Random;
  readonly #ports: number[] = new Array<number>(PORTS).fill(0);
  /** The cached queue heads by address, in the order of their first use. */
  readonly #queues = new Map<number, Queue>();
  #command = 0;
  #status: number = STATUS.halted;
  #enable = 0;
  #asyncList = 0;
  #configured = 0;
  #isTicking = false;
  /** A stop or a reset in progress. */
  #stopping: object | null = null;
  #earlyAnswers = 0;
  #transactions = 0;
  /** Links that it overwrote, by queue head. */
  readonly #links = new Map<number, { readonly right: number; readonly wrong: number }>();

  constructor(host: ModelHost, behaviour: EhciBehaviour = WELL_BEHAVED) {
    this.#host = host;
    this.#dma = host.dma;
    this.#random = host.random;
    this.behaviour = behaviour;
  }

  /** True: the interrupt is asserted. */
  get interrupting(): boolean {
    return (this.#status & this.#enable & CAUSES) !== 0;
  }

  // ---- registers

  read(offset: number, width: 8 | 16 | 32): number {
    const value = offset < OPERATIONAL ? capability(offset) : this.#operational(offset - OPERATIONAL);
    return width === 32 ? value >>> 0 : value % 2 ** width;
  }

  #operational(offset: number): number {
    if (offset === REG.command) return this.#command;
    if (offset === REG.status) return this.#status;
    if (offset === REG.enable) return this.#enable;
    if (offset === REG.asyncList) return this.#asyncList;
    if (offset === REG.configured) return this.#configured;
    const port = (offset - REG.firstPort) / 4;
    if (port < 0 || port >= PORTS) return 0;
    return this.#ports[port]! | (this.disks[port] === null ? 0 : PORT.connected);
  }

  write(offset: number, value: number): void {
    const register = offset - OPERATIONAL;
    if (register === REG.command) this.#control(value);
    else if (register === REG.status) this.#status &= ~(value & CAUSES);
    else if (register === REG.enable) this.#enable = value;
    else if (register === REG.asyncList) this.#asyncList = value;
    else if (register === REG.configured) this.#configured = value & 1;
    else if (register >= REG.firstPort && register < REG.firstPort + 4 * PORTS) {
      this.#setPort((register - REG.firstPort) / 4, value);
    }
    if (this.interrupting) this.#raise(0);
    this.wake();
  }

  #control(value: number): void {
    const before = this.#command;
    this.#command = value;
    if ((value & COMMAND.reset) !== 0) {
      this.#later(this.behaviour.stopTime, () => {
        this.reset();
      });
      return;
    }
    if ((value & COMMAND.run) === 0) {
      this.#later(this.behaviour.stopTime, () => {
        this.#status |= STATUS.halted;
        this.#status &= ~STATUS.asyncActive;
      });
    } else {
      this.#stopping = null;
      this.#status &= ~STATUS.halted;
      const [is, was] = [value & COMMAND.asyncEnable, before & COMMAND.asyncEnable];
      if (is !== 0) this.#status |= STATUS.asyncActive;
      else if (was !== 0) {
        this.#later(this.#random.below(3), () => {
          this.#status &= ~STATUS.asyncActive;
          this.#forget(new Set());
        });
      }
    }
    if ((value & COMMAND.doorbell) !== 0) this.#answerDoorbell();
  }

  /** Runs the action now, later or never; a later call replaces it. */
  #later(time: number, action: () => void): void {
    const mine = {};
    this.#stopping = mine;
    if (time < 0) return;
    if (time === 0) action();
    else {
      setTimeout(() => {
        if (this.#stopping === mine) action();
      }, time);
    }
  }

  /** The function, or the controller itself, was reset. */
  reset(): void {
    this.#dma.reset();
    this.#queues.clear();
    this.#command = this.#enable = this.#asyncList = this.#configured = 0;
    this.#status = STATUS.halted;
    this.#stopping = null;
    this.#ports.fill(0);
  }

  #raise(causes: number): void {
    this.#status |= causes;
    if (this.behaviour.interrupts !== 'never' && this.interrupting) this.onInterrupt();
  }

  // ---- ports

  /** Attaches a device, or (null) detaches it. */
  plug(port: number, disk: UsbDisk | null): void {
    this.disks[port] = disk;
    disk?.reset();
    this.#changePort(port, PORT.connectChange, disk === null ? PORT.enabled : 0);
  }

  /** Changes bits spontaneously. */
  #changePort(port: number, set: number, clear: number): void {
    this.#ports[port] = (this.#ports[port]! & ~clear) | set;
    this.#raise(STATUS.portChange);
  }

  #setPort(port: number, value: number): void {
    const old = this.#ports[port]!;
    let now = (old & ~PORT_WRITABLE) | (value & PORT_WRITABLE);
    now &= ~(value & PORT_CHANGES);
    if ((value & PORT.enabled) === 0) now &= ~PORT.enabled;
    const disk = this.disks[port]!;
    if ((value & PORT.reset) !== 0) {
      now = (now | PORT.reset) & ~PORT.enabled;
      disk?.reset();
    } else if ((old & PORT.reset) !== 0) {
      const { portResetTime } = this.behaviour;
      const end = (): void => {
        this.#ports[port]! &= ~PORT.reset;
        if (this.disks[port] !== null) this.#ports[port]! |= PORT.enabled;
      };
      this.#ports[port] = now;
      if (portResetTime === 0) end();
      else if (portResetTime > 0) setTimeout(end, portResetTime);
      return;
    }
    this.#ports[port] = now;
  }

  /** The device with an address. */
  #diskAt(address: number): UsbDisk | null {
    const { disks } = this;
    return disks.find((disk, port) => disk?.address === address && (this.#ports[port]! & PORT.enabled) !== 0) ?? null;
  }

  // ---- the schedule

  /** Schedules a check of its schedule. */
  wake(): void {
    if (this.#isTicking) return;
    this.#isTicking = true;
    setTimeout(() => {
      this.#isTicking = false;
      if (this.#tick()) this.wake();
    }, this.#random.below(2));
  }

  #tick(): boolean {
    if (!this.#dma.isLive || (this.#status & STATUS.halted) !== 0 || (this.#command & COMMAND.run) === 0) return false;
    const random = this.#random;
    if (random.chance(this.behaviour.breakdowns)) {
      if (random.chance(0.5)) this.#raise(STATUS.systemError);
      this.#status |= STATUS.halted;
      return true;
    }
    if (this.behaviour.interrupts === 'flood') this.#raise(random.next() & (STATUS.transfer | STATUS.error));
    if (random.chance(this.behaviour.restlessPorts)) this.#disturbPorts();
    if ((this.#status & STATUS.asyncActive) !== 0) this.#walk();
    if (random.chance(0.2)) this.#dma.strike();
    return true;
  }

  #disturbPorts(): void {
    const random = this.#random;
    const bits = [PORT.connectChange, PORT.enableChange, PORT.enabled, 0x20, 0x80, 0x400, 0x2000] as const;
    this.#changePort(random.below(PORTS), random.chance(0.5) ? random.pick(bits) : 0, random.pick(bits));
  }

  /** The addresses of the queue heads that are in the ring now. */
  #inRing(): number[] {
    const found: number[] = [];
    for (let at = this.#asyncList; found.length < MOST;) {
      const words = this.#host.words(at, QH.words);
      if (words === null) {
        // An address outside the ring is reported.
        const what = found.length === 0 ? 'asynchronous list' : 'link of a queue head';
        if (this.#dma.isLive && (this.#status & STATUS.asyncActive) !== 0) {
          this.#dma.learn(what, at, QH.words * 4, 'read');
        }
        break;
      }
      found.push(at);
      // It ignores links that it wrote itself.
      const vandalized = this.#links.get(at);
      const link = vandalized?.wrong === words[QH.link] ? vandalized!.right : words[QH.link]!;
      at = (link & ~0x1f) >>> 0;
      if ((link & 1) !== 0 || found.includes(at)) break;
    }
    return found;
  }

  #walk(): void {
    for (const address of this.#inRing()) if (!this.#queues.has(address)) this.#learn(address);
    for (const queue of [...this.#queues.values()]) this.#visit(queue);
  }

  #learn(address: number): void {
    const grant = this.#dma.learn('queue head', address, QH.words * 4, 'both');
    const words = this.#host.words(address, QH.words);
    if (words === null) return;
    const token = words[QH.overlay + QTD.token]!;
    this.#queues.set(address, {
      address,
      grant,
      next: words[QH.overlay + QTD.next]!,
      toggle: (token & TOGGLE) === 0 ? 0 : 1,
      halted: (token & TOKEN.halted) !== 0,
      transfer: null,
    });
  }

  /** The doorbell (4.8.2): it drops queue heads that are no longer in the ring, and then answers. */
  #answerDoorbell(): void {
    const { doorbell } = this.behaviour;
    if (doorbell === 'never') return;
    setTimeout(() => {
      if (!this.#dma.isLive) return;
      this.#command &= ~COMMAND.doorbell;
      // Every other answer comes before the queue heads are dropped.
      const early = doorbell === 'early' && this.#earlyAnswers++ % 2 === 0;
      if (!early) this.#forget(new Set(this.#inRing()));
      this.#raise(STATUS.asyncAdvance);
    }, this.#random.below(4));
  }

  /** Drops all queue heads except those in the ring. */
  #forget(kept: ReadonlySet<number>): void {
    for (const queue of [...this.#queues.values()]) {
      if (kept.has(queue.address)) continue;
      this.#queues.delete(queue.address);
      const { linger } = this.behaviour;
      if (queue.transfer !== null && !queue.halted && linger > 0) this.#linger(queue, performance.now() + linger);
      else this.#release(queue);
    }
  }

  #release(queue: Queue): void {
    this.#dma.release(queue.grant);
    for (const grant of queue.transfer?.grants ?? []) this.#dma.release(grant);
    queue.transfer = null;
  }

  /**
   * Continues a transaction after the answer to the doorbell: the overlay of the queue head changes each millisecond.
   */
  #linger(queue: Queue, end: number): void {
    if (!this.#dma.isLive || (this.#command & COMMAND.run) === 0) return;
    if (performance.now() > end) {
      this.#release(queue);
      return;
    }
    const words = this.#host.words(queue.address, QH.words);
    if (words !== null) words[QH.overlay + QTD.token] = (words[QH.overlay + QTD.token]! + 0x1_0000) >>> 0;
    setTimeout(() => {
      this.#linger(queue, end);
    }, 1);
  }

  // ---- one queue

  #visit(queue: Queue): void {
    if (queue.halted) return;
    if (queue.transfer === null) this.#advance(queue);
    if (queue.transfer?.endless === true) {
      this.#misbehave(queue, queue.transfer);
      return;
    }
    if (queue.transfer !== null && this.#isHostile()) this.#misbehave(queue, queue.transfer);
    for (let packets = this.#random.below(12); packets > 0; packets--) {
      if (queue.transfer === null || queue.halted || !this.#execute(queue, queue.transfer)) return;
    }
  }

  /** Reads the next transfer: its qTDs up to the first inactive one (4.10.2). */
  #advance(queue: Queue): void {
    const elements: Element[] = [];
    const grants: Grant[] = [];
    for (let link = queue.next; (link & 1) === 0 && elements.length < MOST;) {
      const address = (link & ~0x1f) >>> 0;
      const words = this.#host.words(address, QTD.words);
      if (words === null || (Atomics.load(words, QTD.token) & TOKEN.active) === 0) break;
      const element: Element = {
        address,
        next: words[QTD.next]!,
        alternate: words[QTD.alternate]!,
        token: words[QTD.token]!,
        buffers: [...words.subarray(QTD.buffers, QTD.buffers + 5)],
      };
      elements.push(element);
      link = element.next;
    }
    if (elements.length === 0) return;
    for (const element of elements) {
      grants.push(this.#dma.learn('transfer descriptor', element.address, QTD.words * 4, 'both'));
      const toHost = pidOf(element) === PID_IN;
      for (const [dma, length] of pieces(element, 0, lengthOf(element))) {
        grants.push(this.#dma.learn(`${toHost ? 'in' : 'out'} data`, dma, length, toHost ? 'write' : 'read'));
      }
    }
    queue.transfer = { elements, endless: this.#isHostile() && this.#random.chance(0.5), grants, at: 0, moved: 0 };
    this.#load(queue, elements[0]!);
  }

  /** Copies a qTD into the overlay (3.6.3). */
  #load(queue: Queue, element: Element): void {
    const words = this.#host.words(queue.address, QH.words);
    if (words === null) return;
    const control = (words[QH.characteristics]! & 0x4000) !== 0;
    if (control) queue.toggle = (element.token & TOGGLE) === 0 ? 0 : 1;
    words[QH.current] = element.address;
    words[QH.overlay + QTD.next] = element.next;
    words[QH.overlay + QTD.alternate] = element.alternate;
    words[QH.overlay + QTD.token] = tokenOf(queue, element.token & 0x7fff_ffff);
    words.set(element.buffers, QH.overlay + QTD.buffers);
  }

  /** Executes one transaction. False when it cannot make progress now. */
  #execute(queue: Queue, transfer: Transfer): boolean {
    this.#transactions++;
    const element = transfer.elements[transfer.at]!;
    const head = this.#host.words(queue.address, QH.words);
    if (head === null) return false;
    const characteristics = head[QH.characteristics]!;
    const [address, endpoint] = [characteristics & 0x7f, (characteristics >>> 8) & 0xf];
    const packet = (characteristics >>> 16) & 0x7ff;
    const disk = this.#diskAt(address);
    const room = lengthOf(element) - transfer.moved;
    if (disk === null) return this.#halt(queue, transfer, TOKEN.transactionError);
    const pid = pidOf(element);
    if (pid === PID_IN) {
      const answer = disk.send(address, endpoint, Math.max(room, 0));
      if (answer.kind === 'nak' || answer.kind === 'ack') return false;
      if (answer.kind !== 'data') return this.#fail(queue, transfer, answer.kind);
      disk.acknowledged(endpoint);
      // Data that the host already has is acknowledged and dropped.
      if (answer.toggle !== queue.toggle) return true;
      queue.toggle ^= 1;
      if (answer.bytes.length > room) return this.#fail(queue, transfer, 'babble');
      this.#copy(element, transfer.moved, answer.bytes, true);
      transfer.moved += answer.bytes.length;
      this.#mirror(queue, element, transfer.moved);
      if (answer.bytes.length < packet || transfer.moved === lengthOf(element)) this.#retire(queue, transfer);
      return true;
    }
    const bytes = new Uint8Array(Math.min(packet, room));
    this.#copy(element, transfer.moved, bytes, false);
    const answer = disk.receive(address, endpoint, pid !== PID_OUT, bytes, queue.toggle);
    if (answer.kind === 'nak' || answer.kind === 'data') return false;
    if (answer.kind !== 'ack') return this.#fail(queue, transfer, answer.kind);
    queue.toggle ^= 1;
    transfer.moved += bytes.length;
    this.#mirror(queue, element, transfer.moved);
    if (transfer.moved === lengthOf(element)) this.#retire(queue, transfer);
    return true;
  }

  /** Writes its progress to the overlay. */
  #mirror(queue: Queue, element: Element, moved: number): void {
    const words = this.#host.words(queue.address, QH.words);
    if (words === null) return;
    const left = lengthOf(element) - moved;
    words[QH.overlay + QTD.token] = tokenOf(queue, (element.token & 0xffff) | (left << 16));
  }

  #copy(element: Element, from: number, bytes: Uint8Array, toMemory: boolean): void {
    let done = 0;
    for (const [dma, length] of pieces(element, from, bytes.length)) {
      const memory = this.#host.view(dma, length);
      if (memory === null) return;
      if (toMemory) memory.set(bytes.subarray(done, done + length));
      else bytes.set(memory, done);
      done += length;
    }
  }

  #fail(queue: Queue, transfer: Transfer, kind: 'stall' | 'babble' | 'silence'): boolean {
    if (kind === 'babble') return this.#halt(queue, transfer, TOKEN.babble);
    // A STALL leaves the error counter unchanged.
    return this.#halt(queue, transfer, kind === 'stall' ? ERROR_COUNT : TOKEN.transactionError);
  }

  /** The queue stops at this qTD until its queue head is unlinked. */
  #halt(queue: Queue, transfer: Transfer, bits: number): boolean {
    const element = transfer.elements[transfer.at]!;
    const left = lengthOf(element) - transfer.moved;
    queue.halted = true;
    const token = tokenOf(queue, (element.token & 0x8300) | (left << 16) | TOKEN.halted | bits);
    this.#setToken(element, token);
    const words = this.#host.words(queue.address, QH.words);
    if (words !== null) words[QH.overlay + QTD.token] = token;
    this.#raise(STATUS.error);
    return false;
  }

  #setToken(element: Element, token: number): void {
    const words = this.#host.words(element.address, QTD.words);
    if (words !== null) Atomics.store(words, QTD.token, token >>> 0);
  }

  /** Writes back a completed qTD, and continues (4.10.4). */
  #retire(queue: Queue, transfer: Transfer): void {
    const element = transfer.elements[transfer.at]!;
    const left = lengthOf(element) - transfer.moved;
    this.#setToken(element, tokenOf(queue, (element.token & 0x8f00) | (left << 16)));
    this.#goOn(queue, transfer, element, left);
  }

  #goOn(queue: Queue, transfer: Transfer, element: Element, left: number): void {
    const short = left > 0 && pidOf(element) === PID_IN && (element.alternate & 1) === 0;
    const next = short ? element.alternate : element.next;
    const address = (next & ~0x1f) >>> 0;
    transfer.moved = 0;
    transfer.at = transfer.elements.findIndex((other) => other.address === address);
    if ((element.token & INTERRUPT) !== 0 || left > 0) this.#raise(STATUS.transfer);
    const following = transfer.elements[transfer.at];
    if (following === undefined) this.#complete(queue, transfer, next);
    // qTDs that were written back out of order may have been the rest.
    else if (this.#isComplete(transfer)) this.#complete(queue, transfer, transfer.elements.at(-1)!.next);
    else this.#load(queue, following);
  }

  /** The complete transfer is written back. */
  #complete(queue: Queue, transfer: Transfer, next: number): void {
    queue.next = next;
    queue.transfer = null;
    for (const grant of transfer.grants) this.#dma.release(grant);
    const words = this.#host.words(queue.address, QH.words);
    if (words === null) return;
    words[QH.overlay + QTD.next] = next;
    words[QH.overlay + QTD.token] = tokenOf(queue, 0);
  }

  // ---- violations of the specification

  /** True if the transfer is over according to memory, by the rules for software in the specification. */
  #isComplete(transfer: Transfer): boolean {
    const { elements } = transfer;
    for (let i = 0; i >= 0 && i < elements.length;) {
      const element = elements[i]!;
      const words = this.#host.words(element.address, QTD.words);
      if (words === null) return false;
      const token = words[QTD.token]!;
      if ((token & (TOKEN.halted | TOKEN.active)) !== 0) return false;
      const short = ((token >>> 16) & 0x7fff) > 0 && pidOf(element) === PID_IN && (element.alternate & 1) === 0;
      const next = short ? element.alternate : element.next;
      i = elements.findIndex(({ address }) => address === (next & ~0x1f) >>> 0);
    }
    return true;
  }

  #isHostile(): boolean {
    const { hostility, patience } = this.behaviour;
    return this.#transactions >= patience && this.#random.chance(hostility);
  }

  /** Writes wrong values to its descriptors. */
  #misbehave(queue: Queue, transfer: Transfer): void {
    const random = this.#random;
    const { elements } = transfer;
    for (const element of elements) {
      if (random.chance(0.3)) continue;
      this.hostileDescriptors++;
      const words = this.#host.words(element.address, QTD.words);
      const head = this.#host.words(queue.address, QH.words);
      if (words === null || head === null) return;
      const how = random.below(10);
      if (how === 0) {
        // All words except the token, of a qTD that it has read.
        words.set(randomWords(random, 2), QTD.next);
        words.set(randomWords(random, element.buffers.length), QTD.buffers);
      } else if (how === 1) {
        head.set(randomWords(random, QH.words - QH.current), QH.current);
        // The qTD is still active, and its token says so.
        head[QH.overlay + QTD.token]! |= TOKEN.active;
      } else if (how === 2) this.#vandalizeLink(queue.address);
      else if (transfer.endless) {
        this.#setToken(element, (random.next() | TOKEN.active) & ~TOKEN.halted);
      } else if (how === 3 || how > 7) {
        // A length that the qTD never had.
        this.#setToken(element, (element.token & 0x8f00) | (random.below(0x8000) << 16));
      } else if (how === 4) this.#setToken(element, random.next());
      else if (how === 5) this.#setToken(element, element.token | TOKEN.active);
      else if (how === 6) this.#setToken(element, random.next() & ~TOKEN.active);
      else if (random.chance(0.1)) {
        this.#halt(queue, transfer, random.next() & 0xc3c);
        break;
      }
    }
    this.#raise(random.chance(0.5) ? STATUS.transfer : STATUS.error);
    if (!transfer.endless && this.#isComplete(transfer)) this.#complete(queue, transfer, elements.at(-1)!.next);
  }

  /** Overwrites a link, and restores it soon, unless the driver did. */
  #vandalizeLink(address: number): void {
    const words = this.#host.words(address, QH.words);
    if (words === null || this.#links.has(address)) return;
    const [right, wrong] = [words[QH.link]!, this.#random.next()];
    words[QH.link] = wrong;
    this.#links.set(address, { right, wrong });
    setTimeout(() => {
      this.#links.delete(address);
      const now = this.#queues.has(address) ? this.#host.words(address, QH.words) : null;
      if (now?.[QH.link] === wrong) now[QH.link] = right;
    }, 1);
  }
}

function randomWords(random: Random, count: number): Uint32Array {
  return Uint32Array.from({ length: count }, () => random.next());
}

/** CAPLENGTH and HCIVERSION, HCSPARAMS, HCCPARAMS (2.2). */
function capability(offset: number): number {
  if (offset === 0) return OPERATIONAL | (0x0100 << 16);
  if (offset === 2) return 0x0100;
  return offset === 4 ? PORTS | 0x10 : offset === 8 ? 1 : 0;
}

function pidOf({ token }: Element): number {
  return (token >>> 8) & 3;
}

function lengthOf({ token }: Element): number {
  return (token >>> 16) & 0x7fff;
}

function tokenOf(queue: Queue, bits: number): number {
  return ((bits & 0x7fff_ffff) | (queue.toggle === 0 ? 0 : TOGGLE)) >>> 0;
}

/** The location of `count` bytes of a qTD's data, from byte `from` on (3.5.4). */
function pieces({ buffers }: Element, from: number, count: number): [dma: number, length: number][] {
  const found: [number, number][] = [];
  const start = buffers[0]! % PAGE;
  for (let done = 0; done < count;) {
    const at = start + from + done;
    const page = Math.floor(at / PAGE);
    if (page >= buffers.length) break;
    const length = Math.min(count - done, PAGE - (at % PAGE));
    found.push([buffers[page]! - (buffers[page]! % PAGE) + (at % PAGE), length]);
    done += length;
  }
  return found;
}
