/**
 * Coherent is not ordered: the device sees every write, but not necessarily in the order of the program. A descriptor
 * must be whole before the word that hands it over (an ownership bit, a phase, a tail index) changes, and the words
 * behind such a word must not be read before it. JavaScript promises order only through Atomics, so that one word is
 * written and read with these; all the others with plain views.
 *
 *     plain writes of the descriptor            while (loadAcquire32(words, 3) still says "device's") wait
 *     storeRelease32(words, 3, OWN | length)    plain reads of what the device wrote
 *
 * Devices are little-endian, and so are typed arrays on every machine that Node, Bun, Deno and the browsers run on
 * today; on a big-endian one these helpers swap bytes, plain typed arrays do not (use a DataView there).
 */
import { checkInteger } from '../arguments.ts';
import { DmaArgumentError } from '../errors.ts';

const LITTLE_ENDIAN = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;

function swap16(value: number): number {
  return ((value & 0xff) << 8) | ((value >>> 8) & 0xff);
}

function swap32(value: number): number {
  return ((value & 0xff) << 24) | ((value & 0xff00) << 8) | ((value >>> 8) & 0xff00) | ((value >>> 24) & 0xff);
}

/** A view of 16-bit words, such as `block.u16`. */
export type HalfWords = Int16Array | Uint16Array;

/** A view of 32-bit words, such as `block.u32`. */
export type Words = Int32Array | Uint32Array;

/**
 * Store-release: writes one 32-bit word, little-endian, after everything that the program wrote before.
 *
 * @param words View of the block; `block.u32` or `block.i32`.
 * @param index Which word of the view, from 0.
 * @param value The word; its low 32 bits are used.
 * @throws {@link DmaArgumentError} for an index that is not in the view.
 *
 * @example
 * ```ts
 * const OWNED_BY_DEVICE = 0x8000_0000;
 * const pool = DmaPool.create('descriptors', new Device({ name: 'eth0' }), { size: 16, align: 16 });
 * const [descriptor, buffer] = [pool.alloc(), pool.alloc()];
 * descriptor.u32[0] = lower32Bits(buffer.dma);
 * descriptor.u32[1] = upper32Bits(buffer.dma);
 * storeRelease32(descriptor.u32, 3, OWNED_BY_DEVICE);
 * ```
 */
export function storeRelease32(words: Words, index: number, value: number): void {
  checkWords(words);
  checkInteger('index', index, 0, words.length - 1);
  if (typeof value !== 'number') throw new DmaArgumentError('value', value, 'a number');
  Atomics.store(words, index, LITTLE_ENDIAN ? value : swap32(value));
}

/**
 * Load-acquire: reads one 32-bit word, little-endian, before everything that the program reads afterwards.
 *
 * @param words View of the block; `block.u32` or `block.i32`.
 * @param index Which word of the view, from 0.
 * @returns The word as an unsigned number.
 * @throws {@link DmaArgumentError} for an index that is not in the view.
 *
 * @example
 * ```ts
 * const DONE = 1;
 * const pool = DmaPool.create('descriptors', new Device({ name: 'eth0' }), { size: 16, align: 16 });
 * const descriptor = pool.alloc();
 * if (loadAcquire32(descriptor.u32, 3) & DONE) console.log(`${descriptor.u32[2]} bytes came`);
 * ```
 */
export function loadAcquire32(words: Words, index: number): number {
  checkWords(words);
  checkInteger('index', index, 0, words.length - 1);
  const value = Atomics.load(words, index);
  return (LITTLE_ENDIAN ? value : swap32(value)) >>> 0;
}

/**
 * {@link storeRelease32} for a 16-bit word, such as the index of a virtqueue's available ring.
 *
 * @param words View of the block; `block.u16`.
 * @param index Which word of the view, from 0.
 * @param value The word; its low 16 bits are used.
 * @throws {@link DmaArgumentError} for an index that is not in the view.
 *
 * @example
 * ```ts
 * const pool = DmaPool.create('avail', new Device({ name: 'virtio0' }), { size: 64, align: 2 });
 * const ring = pool.alloc({ zero: true });
 * ring.u16[2] = 7; // the entry
 * storeRelease16(ring.u16, 1, 1); // then the index
 * ```
 */
export function storeRelease16(words: HalfWords, index: number, value: number): void {
  checkHalfWords(words);
  checkInteger('index', index, 0, words.length - 1);
  if (typeof value !== 'number') throw new DmaArgumentError('value', value, 'a number');
  Atomics.store(words, index, LITTLE_ENDIAN ? value : swap16(value));
}

/**
 * {@link loadAcquire32} for a 16-bit word, such as the status of an NVMe completion.
 *
 * @param words View of the block; `block.u16`.
 * @param index Which word of the view, from 0.
 * @returns The word as an unsigned number.
 * @throws {@link DmaArgumentError} for an index that is not in the view.
 *
 * @example
 * ```ts
 * const pool = DmaPool.create('completions', new Device({ name: 'nvme0' }), { size: 16, align: 16 });
 * const completion = pool.alloc({ zero: true });
 * const phase = loadAcquire16(completion.u16, 7) & 1;
 * console.log(phase); // 0
 * ```
 */
export function loadAcquire16(words: HalfWords, index: number): number {
  checkHalfWords(words);
  checkInteger('index', index, 0, words.length - 1);
  const value = Atomics.load(words, index);
  return (LITTLE_ENDIAN ? value : swap16(value)) & 0xffff;
}

/**
 * Low half of an address (Linux: `lower_32_bits`).
 *
 * @param value A whole number from 0 to 2^53-1.
 * @returns The low 32 bits, 0 to 2^32-1.
 * @throws {@link DmaArgumentError} for anything else.
 *
 * @example
 * ```ts
 * console.log(lower32Bits(0x12_3456_7890).toString(16)); // 34567890
 * ```
 */
export function lower32Bits(value: number): number {
  checkInteger('value', value);
  return value % 0x1_0000_0000;
}

/**
 * High half of an address (Linux: `upper_32_bits`).
 *
 * @param value A whole number from 0 to 2^53-1.
 * @returns The bits from 32 on, 0 to 2^21-1.
 * @throws {@link DmaArgumentError} for anything else.
 *
 * @example
 * ```ts
 * console.log(upper32Bits(0x12_3456_7890).toString(16)); // 12
 * ```
 */
export function upper32Bits(value: number): number {
  checkInteger('value', value);
  return Math.floor(value / 0x1_0000_0000);
}

/**
 * Writes a 64-bit DMA address, little-endian, without a bigint. Not atomic: store-release a word of its own afterwards.
 *
 * @param view Where; `block.view`.
 * @param byteOffset First of the eight bytes.
 * @param address A whole number from 0 to 2^53-1.
 * @throws {@link DmaArgumentError} for anything else, and for eight bytes that are not all in the view.
 *
 * @example
 * ```ts
 * const pool = DmaPool.create('commands', new Device({ name: 'nvme0' }), { size: 64, align: 64 });
 * const [command, data] = [pool.alloc({ zero: true }), pool.alloc()];
 * writeAddress64(command.view, 24, data.dma); // NVMe: PRP entry 1, bytes 24 to 31 of a command
 * console.log(readAddress64(command.view, 24) === data.dma); // true
 * ```
 */
export function writeAddress64(view: DataView, byteOffset: number, address: number): void {
  checkView(view);
  checkInteger('byteOffset', byteOffset, 0, view.byteLength - 8);
  checkInteger('address', address);
  view.setUint32(byteOffset, lower32Bits(address), true);
  view.setUint32(byteOffset + 4, upper32Bits(address), true);
}

/**
 * Reads what {@link writeAddress64} wrote.
 *
 * @param view Where; `block.view`.
 * @param byteOffset First of the eight bytes.
 * @returns The address, 0 to 2^53-1.
 * @throws {@link DmaArgumentError} when the 64 bits are no exact JavaScript number: then it is no address from here; and
 *   for eight bytes that are not all in the view.
 *
 * @example
 * ```ts
 * const view = new DataView(new ArrayBuffer(8));
 * writeAddress64(view, 0, 2 ** 40);
 * console.log(readAddress64(view, 0) === 2 ** 40); // true
 * ```
 */
export function readAddress64(view: DataView, byteOffset: number): number {
  checkView(view);
  checkInteger('byteOffset', byteOffset, 0, view.byteLength - 8);
  const address = view.getUint32(byteOffset + 4, true) * 0x1_0000_0000 + view.getUint32(byteOffset, true);
  checkInteger('address', address);
  return address;
}

function checkWords(words: Words): void {
  if (!ArrayBuffer.isView(words) || !(words instanceof Uint32Array || words instanceof Int32Array)) {
    throw new DmaArgumentError('words', words, 'an Int32Array or Uint32Array, such as block.u32');
  }
}

function checkHalfWords(words: HalfWords): void {
  if (!ArrayBuffer.isView(words) || !(words instanceof Uint16Array || words instanceof Int16Array)) {
    throw new DmaArgumentError('words', words, 'an Int16Array or Uint16Array, such as block.u16');
  }
}

function checkView(view: DataView): void {
  if (!ArrayBuffer.isView(view) || !(view instanceof DataView)) {
    throw new DmaArgumentError('view', view, 'a DataView, such as block.view');
  }
}
