/** A user's program with pools in a WebAssembly.Memory. */
import { Device, DmaArgumentError, DmaPool } from 'dmapool';
import { WasmMemory, type WasmMemoryObject } from 'dmapool/wasm';

// In a project with the types of browsers, `new WebAssembly.Memory(...)`.
interface Engine {
  Memory: new (limits: { initial: number; maximum: number }) => WasmMemoryObject;
}
const engine = (globalThis as unknown as { WebAssembly: Engine }).WebAssembly;

const memory = new engine.Memory({ initial: 2, maximum: 2 });
const source = new WasmMemory({ memory, offset: 65_536, size: 65_536 });
const pool = DmaPool.create('node', new Device({ name: 'module', memory: source }), { size: 64 });
const block = pool.alloc();
block.bytes[0] = 7;
if (new Uint8Array(memory.buffer)[block.dma] !== 7) throw new Error('the block is not in the memory');
pool.free(block);
pool.destroy();
let argument = '';
try {
  new WasmMemory({ memory, size: 1 });
} catch (error) {
  if (error instanceof DmaArgumentError) argument = error.argument;
}
if (argument !== 'size') throw new Error('an invalid size was accepted');
