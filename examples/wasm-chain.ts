/**
 * JavaScript and WebAssembly on the same blocks: a chain of blocks that JavaScript builds and a module walks.
 *
 *     block: next (4 bytes), length (4 bytes), data ...      `next` is the next block's pointer, 0 in the last one
 *
 * A block's `dma` is its pointer in the module, so nothing is copied. The module is in this file, as bytes.
 */
import { Device, type DmaBlock, DmaPool } from 'dmapool';
import { WasmMemory, type WasmMemoryObject } from 'dmapool/wasm';

/*
 * (module
 *   (import "env" "memory" (memory 1))
 *   (func (export "sum") (param $block i32) (result i32)
 *     (local $sum i32) (local $at i32) (local $end i32)
 *     (block $done
 *       (loop $blocks
 *         (br_if $done (i32.eqz (local.get $block)))
 *         (local.set $at (i32.add (local.get $block) (i32.const 8)))
 *         (local.set $end (i32.add (local.get $at) (i32.load offset=4 (local.get $block))))
 *         (block $empty
 *           (loop $bytes
 *             (br_if $empty (i32.ge_u (local.get $at) (local.get $end)))
 *             (local.set $sum (i32.add (local.get $sum) (i32.load8_u (local.get $at))))
 *             (local.set $at (i32.add (local.get $at) (i32.const 1)))
 *             (br $bytes)))
 *         (local.set $block (i32.load (local.get $block)))
 *         (br $blocks)))
 *     (local.get $sum)))
 */
const MODULE = Uint8Array.from(
  (
    '0061736d0100000001060160017f017f020f0103656e76066d656d6f7279020001030201000707010373756d00000a4d014b01037f0240' +
    '03402000450d01200041086a2102200220002802046a210302400340200220034f0d01200120022d00006a2101200241016a21020c000b' +
    '0b200028020021000c000b0b20010b'
  ).match(/../g)!,
  (digits) => parseInt(digits, 16),
);

/** The part of WebAssembly that is used here. Its types are those of browsers. */
interface Engine {
  readonly Memory: new (limits: { initial: number; maximum: number }) => WasmMemoryObject;
  instantiate(bytes: Uint8Array, imports: object): Promise<{ instance: { exports: { sum(block: number): number } } }>;
}
const { WebAssembly: engine } = globalThis as unknown as { WebAssembly: Engine };

// 64 KiB for the module and 64 KiB for the pools. The maximum is the size: a memory that grows detaches its buffer.
const memory = new engine.Memory({ initial: 2, maximum: 2 });
const source = new WasmMemory({ memory, offset: 65_536, size: 65_536 });
const { instance } = await engine.instantiate(MODULE, { env: { memory } });

const device = new Device({ name: 'module', memory: source });
const links = DmaPool.create('link', device, { size: 1024, align: 16 });

/** Splits data into a chain of blocks; returns them in order. */
function chain(data: Uint8Array): DmaBlock<'link'>[] {
  const blocks: DmaBlock<'link'>[] = [];
  for (let at = 0; at < data.length; at += links.geometry.blockSize - 8) {
    const piece = data.subarray(at, at + links.geometry.blockSize - 8);
    const block = links.alloc();
    block.u32[0] = 0;
    block.u32[1] = piece.length;
    block.bytes.set(piece, 8);
    const before = blocks.at(-1);
    if (before !== undefined) before.u32[0] = block.dma;
    blocks.push(block);
  }
  return blocks;
}

const data = Uint8Array.from({ length: 10_000 }, (_, i) => i % 256);
const blocks = chain(data);
const expected = data.reduce((sum, byte) => sum + byte, 0);
console.log(`${blocks.length} blocks, the first at pointer ${blocks[0]!.dma}`);
console.log(`the module's sum is ${instance.exports.sum(blocks[0]!.dma)}, expected ${expected}`);
console.log(device.readAttribute('pools'));
links.freeBulk(blocks);
links.destroy();
