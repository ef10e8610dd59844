/** Executes operations on our pools in one form. `module/operations.c` does the same on the kernel's. */
import { Device, dmaBitMask, DmaError } from 'dmapool';
import type { Answers } from './answers.ts';
import { FORMS, type FormName, type TestedPool } from './forms.ts';
import { CountedMemory } from './memory.ts';
import { ANYWHERE, LARGEST_PAGE, MAX_BLOCKS, type Operation, QUEUE, SLOTS, STACK, ZERO } from './operation.ts';
import type { PoolsView } from './stream.ts';

const REFUSED = 0xffff_ffff;
/** Bytes to write at each end of an allocated block, and their value. */
const WRITTEN_BYTES = 32;
const WRITTEN_VALUE = 0x5a;
/** Bytes of a pool's name in the kernel's messages. */
const NAME_BYTES = 31;
const ZEROS = Buffer.alloc(LARGEST_PAGE);
const encoder = new TextEncoder();

interface Slot {
  pool: TestedPool | null;
  size: number;
  align: number;
  /** The block that was freed last, and its bytes. */
  freed: { readonly block: unknown; readonly bytes: Uint8Array } | null;
}

/** Our pools of one device, in one form. */
export class Ours implements PoolsView {
  readonly #form: FormName;
  readonly #memory: CountedMemory = new CountedMemory();
  readonly #slots: readonly Slot[] = Array.from({ length: SLOTS }, () => ({
    pool: null,
    size: 0,
    align: 0,
    freed: null,
  }));
  #device: Device;
  /** The device's log since the last destroy. */
  #log: string[] = [];
  /** Pages that the last destroy kept. */
  #kept = 0;

  constructor(form: FormName) {
    this.#form = form;
    this.#device = this.#newDevice();
  }

  used(slot: number): boolean {
    return this.#slots[slot]!.pool !== null;
  }

  blocks(slot: number): number {
    return this.#slots[slot]!.pool?.blocks.length ?? 0;
  }

  argumentsOf(slot: number): Slot {
    return this.#slots[slot]!;
  }

  /** Destroys all pools and creates a new device, with pages from number 0. */
  reset(): void {
    for (const slot of this.#slots) {
      slot.pool?.destroy();
      slot.pool = null;
    }
    this.#device.reclaim();
    this.#memory.reset();
    this.#kept = 0;
    this.#device = this.#newDevice();
  }

  operate(operation: Operation, answers: Answers): void {
    switch (operation.kind) {
      case 'create':
        this.#create(operation, answers);
        break;
      case 'alloc':
        this.#alloc(operation, answers);
        break;
      case 'free':
        this.#free(operation, answers);
        break;
      case 'destroy':
        this.#destroy(operation, answers);
        break;
      case 'text':
        answers.bytes(encoder.encode(this.#device.readAttribute('pools') ?? ''));
        break;
      case 'refuse':
        this.#memory.refusals = operation.count;
        break;
      case 'kept':
        answers.word(this.#kept);
        break;
      case 'race':
        this.#freeAtNextRequest(this.#slots[operation.slot]!.pool!);
        answers.word(1);
        break;
      case 'free-again':
        this.#freeAgain(this.#slots[operation.slot]!);
        answers.word(1);
        break;
      case 'device-write':
        this.#slots[operation.slot]!.freed!.bytes.fill(WRITTEN_VALUE);
        answers.word(1);
        break;
      case 'mask':
        answers.word(Number(this.#setMask(operation.bits)));
        break;
      case 'trim':
        this.#slots[operation.slot]!.pool!.pool.trim();
        answers.word(this.#memory.live());
        break;
    }
  }

  #create({ slot: number, name, size, align, boundary }: Operation & { kind: 'create' }, answers: Answers): void {
    const slot = this.#slots[number]!;
    if (slot.pool !== null) {
      answers.word(0);
      return;
    }
    this.#memory.owner = number;
    slot.pool = FORMS[this.#form].create(name, this.#device, { size, align, boundary });
    slot.size = size;
    slot.align = align;
    answers.word(Number(slot.pool !== null));
  }

  #alloc({ slot: number, flags, count }: Operation & { kind: 'alloc' }, answers: Answers): void {
    const { pool, size } = this.#slots[number]!;
    if (pool === null) {
      answers.word(0);
      return;
    }
    this.#memory.owner = number;
    const blocks = pool.alloc(Math.min(count, MAX_BLOCKS - pool.blocks.length), flags);
    if (blocks === null) answers.word(REFUSED);
    for (const block of blocks ?? []) {
      const dma = pool.dmaOf(block);
      const bytes = pool.bytesOf(block);
      // Bit 0: the bytes are at the address. Bit 1: a zeroed block is not zero.
      let checks = Number(this.#memory.isAt(dma, bytes));
      if ((flags & ZERO) !== 0 && Buffer.compare(bytes.subarray(0, size), ZEROS.subarray(0, size)) !== 0) checks |= 2;
      answers.word(this.#memory.numberAt(dma));
      answers.word(dma % LARGEST_PAGE);
      answers.word(checks);
      bytes.fill(WRITTEN_VALUE, 0, Math.min(size, WRITTEN_BYTES));
      bytes.fill(WRITTEN_VALUE, Math.max(0, size - WRITTEN_BYTES), size);
      pool.blocks.push(block);
    }
    answers.word(this.#memory.requests);
  }

  #free({ slot, order, count, position }: Operation & { kind: 'free' }, answers: Answers): void {
    const { pool } = this.#slots[slot]!;
    if (pool === null) {
      answers.word(0);
      return;
    }
    const blocks = remove(pool.blocks, order, Math.min(count, pool.blocks.length), position);
    const last = blocks.at(-1);
    if (last !== undefined) this.#slots[slot]!.freed = { block: last, bytes: pool.bytesOf(last) };
    pool.free(blocks);
    answers.word(blocks.length);
  }

  #freeAtNextRequest(pool: TestedPool): void {
    const blocks = [pool.blocks.pop()];
    this.#memory.onRequest = () => {
      pool.free(blocks);
    };
  }

  #freeAgain({ pool, freed }: Slot): void {
    try {
      pool!.free([freed!.block]);
    } catch (error) {
      if (!(error instanceof DmaError)) throw error;
    }
  }

  /** Returns whether the device accepts a mask. */
  #setMask(bits: number): boolean {
    try {
      this.#device.setDmaMask(dmaBitMask(bits));
      return true;
    } catch (error) {
      if (error instanceof DmaError) return false;
      throw error;
    }
  }

  #destroy({ slot: number }: Operation & { kind: 'destroy' }, answers: Answers): void {
    const slot = this.#slots[number]!;
    const { pool } = slot;
    if (pool === null) {
      answers.word(0);
      return;
    }
    slot.pool = null;
    this.#log = [];
    pool.destroy();
    for (const message of this.#log) answers.bytes(encoder.encode(this.#asKernelMessage(message, pool)));
    this.#kept = this.#memory.live(number);
    // The kernel's side frees the leaked pages. Here the last free of a block returns them.
    pool.free(pool.blocks);
    answers.word(this.#memory.live());
  }

  /** Returns the kernel's message for one of ours: the first line without the device's name, or the busy message. */
  #asKernelMessage(message: string, { pool }: TestedPool): string {
    const [line = ''] = message.split('\n');
    if (FORMS[this.#form].hasKernelLog) return line.slice(line.indexOf(': ') + 2);
    if (!line.includes(`${pool.name} busy`)) return line;
    return `dma_pool_destroy ${Buffer.from(pool.name).subarray(0, NAME_BYTES).toString()} busy`;
  }

  #newDevice(): Device {
    const add = (message: string): void => void this.#log.push(message);
    const log = { error: add, warn: add, info: add };
    return new Device({ name: 'oracle', memory: this.#memory, dmaMask: dmaBitMask(64), log });
  }
}

/** Removes `count` blocks from a list, in the given order. */
function remove<B>(blocks: B[], order: number, count: number, position: number): B[] {
  if (order === STACK) return blocks.splice(blocks.length - count).reverse();
  if (order === QUEUE) return blocks.splice(0, count);
  if (order !== ANYWHERE) throw new RangeError(`unknown order ${order}`);
  return Array.from({ length: count }, () => blocks.splice(position % blocks.length, 1)[0]!);
}
