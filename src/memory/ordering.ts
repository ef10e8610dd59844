/**
 * Memory ordering between CPU and device. Coherent memory is not ordered: the device sees every write, but not
 * necessarily in program order. A descriptor must be complete before the word that transfers its ownership (an ownership
 * bit, a phase bit, a tail index), and must be read after that word. JavaScript guarantees order only through Atomics, so
 * access that word with these functions, and all others with plain views.
 *
 *     plain writes of the descriptor            wait while loadAcquire32(words, 3) & OWN
 *     storeRelease32(words, 3, OWN | length)    plain reads of the completed descriptor
 *
 * Words are little-endian. Typed arrays are little-endian on every machine that Node, Bun, Deno and browsers run on today.
 * On a big-endian machine these functions swap bytes; plain typed arrays do not, so use a DataView there.
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
 * Store-release: writes a 32-bit word, little-endian, after all earlier writes of the program.
 *
 * @param words A view of the block: `block.u32` or `block.i32`.
 * @param index Index of the word, 0 to `words.length` - 1.
 * @param value A number; its low 32 bits are used.
 * @throws {@link DmaArgumentError} for any other argument.
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
 * Load-acquire: reads a 32-bit word, little-endian, before all later reads of the program.
 *
 * @param words A view of the block: `block.u32` or `block.i32`.
 * @param index Index of the word, 0 to `words.length` - 1.
 * @returns The word, 0 to 2^32-1.
 * @throws {@link DmaArgumentError} for any other argument.
 *
 * @example
 * ```ts
 * const DONE = 1;
 * const pool = DmaPool.create('descriptors', new Device({ name: 'eth0' }), { size: 16, align: 16 });
 * const descriptor = pool.alloc();
 * if (loadAcquire32(descriptor.u32, 3) & DONE) console.log(`received ${descriptor.u32[2]} bytes`);
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
 * @param words A view of the block: `block.u16`.
 * @param index Index of the word, 0 to `words.length` - 1.
 * @param value A number; its low 16 bits are used.
 * @throws {@link DmaArgumentError} for any other argument.
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
 * @param words A view of the block: `block.u16`.
 * @param index Index of the word, 0 to `words.length` - 1.
 * @returns The word, 0 to 2^16-1.
 * @throws {@link DmaArgumentError} for any other argument.
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
 * Returns the low 32 bits of an address (Linux: `lower_32_bits`).
 *
 * @param value A whole number from 0 to 2^53-1.
 * @returns 0 to 2^32-1.
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
 * Returns the bits of an address from bit 32 up (Linux: `upper_32_bits`).
 *
 * @param value A whole number from 0 to 2^53-1.
 * @returns 0 to 2^21-1.
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
 * Writes a 64-bit DMA address, little-endian, without a bigint. Not atomic: the device must not read it before a later
 * store-release of another word.
 *
 * @param view A view of the block: `block.view`.
 * @param byteOffset Offset of the first byte, 0 to `view.byteLength` - 8.
 * @param address A whole number from 0 to 2^53-1.
 * @throws {@link DmaArgumentError} for any other argument.
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
 * Reads a 64-bit DMA address, little-endian; see {@link writeAddress64}.
 *
 * @param view A view of the block: `block.view`.
 * @param byteOffset Offset of the first byte, 0 to `view.byteLength` - 8.
 * @returns The address, 0 to 2^53-1.
 * @throws {@link DmaArgumentError} for any other argument, or when the value is above 2^53-1.
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
