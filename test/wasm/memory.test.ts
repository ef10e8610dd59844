/** Memory of pools in a WebAssembly.Memory, shared and not. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import {
  Device,
  DmaArgumentError,
  DmaBlockError,
  DmaOutOfMemoryError,
  type DmaPool as Pool,
  DmaPool,
  type DmaTarget,
} from 'dmapool';
import { DmaSharingError, sharePool } from 'dmapool/shared';
import { WasmMemory, WasmMemoryError, type WasmMemoryObject, type WasmMemoryOptions } from 'dmapool/wasm';
import { registerConformance } from '../memory/conformance-node.ts';
import { MIB } from '../support/sizes.ts';

interface Limits {
  readonly initial: number;
  readonly maximum?: number;
  readonly shared?: boolean;
}

const { WebAssembly: engine } = globalThis as unknown as {
  WebAssembly: {
    readonly Memory: new (limits: Limits) => WasmMemoryObject;
    readonly Module: new (bytes: Uint8Array) => object;
    readonly Instance: new (
      module: object,
      imports: object,
    ) => { exports: Record<string, (...args: number[]) => number> };
  };
};

/** 8 MiB of memory, which can't grow. */
const fixed = (shared = false): WasmMemoryObject => new engine.Memory({ initial: 128, maximum: 128, shared });
const device: DmaTarget = { name: 'module', dmaMask: 2 ** 32 - 1 };

registerConformance('WasmMemory', {
  create: () => new WasmMemory({ memory: fixed(), offset: 65_536, size: 6 * MIB }),
});
registerConformance('WasmMemory, shared', {
  create: () => new WasmMemory({ memory: fixed(true), offset: 65_536, size: 6 * MIB }),
});
registerConformance('WasmMemory in pages that it adds', {
  create: () => new WasmMemory({ memory: new engine.Memory({ initial: 3 }), size: 5 * MIB }),
});
registerConformance('WasmMemory, odd region, large pages', {
  create: () => new WasmMemory({ memory: fixed(), offset: 3 * 32_768, size: 5 * MIB + 32_768, pageSize: 32_768 }),
});

test('a block’s dma is its pointer, and the bytes are those of the memory', () => {
  const memory = fixed();
  const source = new WasmMemory({ memory, offset: 8192, size: MIB });
  const pool = DmaPool.create('p', new Device({ name: 'module', memory: source }), { size: 48, align: 16 });
  const block = pool.alloc();
  assert.equal(block.dma, 8192);
  block.bytes.set([1, 2, 3]);
  assert.deepEqual([...new Uint8Array(memory.buffer, block.dma, 4)], [1, 2, 3, 0]);
  assert.equal(block.bytes.buffer, memory.buffer);
  assert.deepEqual([source.bytesInUse, source.limit, source.offset, source.attached], [4096, MIB, 8192, true]);
  pool.free(block);
  pool.destroy();
  assert.equal(source.bytesInUse, 0);
});

test('the pages that it adds begin at the old end, and the module’s memory is unchanged', () => {
  const memory = new engine.Memory({ initial: 2, maximum: 10 });
  new Uint8Array(memory.buffer).fill(7);
  const source = new WasmMemory({ memory, size: 100_000 - (100_000 % 4096) });
  assert.equal(source.offset, 2 * 65_536);
  assert.equal(memory.buffer.byteLength, 4 * 65_536);
  while (source.allocCoherent({ device, size: 4096, node: -1 }) !== null);
  assert.ok(new Uint8Array(memory.buffer, 0, source.offset).every((byte) => byte === 7));
});

const fake = Object.create(engine.Memory.prototype as object) as WasmMemoryObject;
const refusals: readonly (readonly [string, Partial<WasmMemoryOptions>, RegExp])[] = [
  ['no memory', { memory: undefined as never }, /^memory is undefined; accepted: a WebAssembly\.Memory$/],
  ['another object', { memory: { buffer: new ArrayBuffer(MIB), grow: () => 0 } }, /^memory is an object/],
  ['an object with the prototype only', { memory: fake }, /^memory is an object; accepted: a WebAssembly\.Memory$/],
  ['a size of 0', { size: 0 }, /^size is 0/],
  ['a size that is no multiple', { size: 5000 }, /^size is 5000; accepted: a multiple of 4096$/],
  [
    'a size beyond the memory',
    { size: 8 * MIB },
    /^size is 8388608; accepted: at most 8384512: the memory has 8388608/,
  ],
  [
    'offset 0, where a block would be a null pointer',
    { offset: 0 },
    /^offset is 0; accepted: a whole number from 4096/,
  ],
  ['an offset that is no multiple', { offset: 5000 }, /^offset is 5000; accepted: a multiple of 4096$/],
  ['a region beyond the memory', { offset: 8 * MIB - 4096, size: 8192 }, /^offset is 8384512; accepted/],
  [
    'large pages without offset',
    { offset: undefined as never, pageSize: 131_072, size: 131_072 },
    /^pageSize is 131072/,
  ],
  ['an unknown option', { length: 4096 } as never, /unknown option "length"/],
];

for (const [name, options, message] of refusals) {
  test(`refuses ${name}, and does not grow the memory`, () => {
    const memory = fixed();
    assert.throws(
      () => new WasmMemory({ memory, offset: 4096, size: MIB, ...options }),
      (error) => error instanceof DmaArgumentError && message.test(error.message),
    );
    assert.equal(memory.buffer.byteLength, 8 * MIB);
  });
}

test('a memory at its maximum has no room for new pages', () => {
  assert.throws(
    () => new WasmMemory({ memory: fixed(), size: MIB }),
    (error) => error instanceof DmaOutOfMemoryError && error.code === 'ERR_DMAPOOL_NO_MEMORY',
  );
});

test('growth of a memory that is not shared is detected, and all blocks can be freed', () => {
  const memory = new engine.Memory({ initial: 32 });
  const source = new WasmMemory({ memory, offset: 4096, size: MIB });
  const pool = DmaPool.create('p', new Device({ name: 'module', memory: source }), { size: 4096 });
  const block = pool.alloc();
  memory.grow(1);
  assert.equal(source.attached, false);
  assert.throws(
    () => pool.alloc(),
    (error) => error instanceof WasmMemoryError && error.code === 'ERR_DMAPOOL_WASM_DETACHED',
  );
  assert.throws(() => source.allocCoherent({ device, size: 4096, node: -1 }), WasmMemoryError);
  pool.free(block);
  pool.destroy();
  assert.equal(source.bytesInUse, 0);
});

test('growth of a shared memory changes nothing', () => {
  const memory = new engine.Memory({ initial: 32, maximum: 64, shared: true });
  const source = new WasmMemory({ memory, offset: 4096, size: MIB });
  const pool = DmaPool.create('p', new Device({ name: 'module', memory: source }), { size: 4096 });
  const block = pool.alloc();
  memory.grow(1);
  assert.equal(source.attached, true);
  block.u32[0] = 42;
  const next = pool.alloc();
  assert.deepEqual([new Uint32Array(memory.buffer, block.dma, 1)[0], next.bytes.length], [42, 4096]);
});

test('growth of a resizable buffer changes nothing', () => {
  const memory = new engine.Memory({ initial: 32, maximum: 64 }) as WasmMemoryObject & {
    toResizableBuffer?: () => ArrayBuffer;
  };
  // Newer engines only.
  if (memory.toResizableBuffer === undefined) return;
  memory.toResizableBuffer();
  const source = new WasmMemory({ memory, offset: 4096, size: MIB });
  const pool = DmaPool.create('p', new Device({ name: 'module', memory: source }), { size: 4096 });
  const block = pool.alloc();
  memory.grow(1);
  block.u32[0] = 42;
  assert.deepEqual([source.attached, new Uint32Array(memory.buffer, block.dma, 1)[0]], [true, 42]);
});

/*
 * (module (import "env" "memory" (memory 1 128 shared))
 *   (func (export "add") (param $at i32) (param $n i32) (result i32)
 *     (i32.atomic.rmw.add (local.get $at) (local.get $n))))
 */
const ADD = Uint8Array.from(
  (
    '0061736d0100000001070160027f7f017f02110103656e76066d656d6f72790203018001030201000707010361646400000a0c010a002000' +
    '2001fe1e02000b'
  ).match(/../g)!,
  (digits) => parseInt(digits, 16),
);

test('a shared pool: modules in two threads get the same pointer, in turn', async () => {
  const memory = fixed(true);
  const source = new WasmMemory({ memory, offset: 65_536, size: MIB });
  const pool: Pool = DmaPool.create('p', new Device({ name: 'module', memory: source }), { size: 64, maxBlocks: 64 });
  const shared = sharePool(pool);
  const block = pool.alloc({ zero: true });
  const instance = new engine.Instance(new engine.Module(ADD), { env: { memory } });
  const rounds = 20_000;
  const worker = new Worker(new URL('./wasm-worker.js', import.meta.url), {
    workerData: { handle: shared.handle, memory, module: ADD, rounds },
  });
  const done = new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
  for (let i = 0; i < rounds; i++) instance.exports['add']!(block.dma, 1);
  worker.postMessage({ pointer: block.dma, ticket: shared.transfer(block) });
  const back = shared.accept((await done) as number);
  assert.equal(back.u32[0], 2 * rounds);
  pool.free(back);
  await worker.terminate();
  pool.destroy();
});

test('a pool in a memory that is not shared can’t be shared', () => {
  const source = new WasmMemory({ memory: fixed(), offset: 4096, size: MIB });
  const pool: Pool = DmaPool.create('p', new Device({ name: 'module', memory: source }), { size: 64, maxBlocks: 64 });
  assert.throws(
    () => sharePool(pool),
    (error) => error instanceof DmaSharingError && error.code === 'ERR_DMAPOOL_NOT_SHAREABLE',
  );
  const block = pool.alloc();
  pool.free(block);
  assert.throws(() => {
    pool.free(block);
  }, DmaBlockError);
});
