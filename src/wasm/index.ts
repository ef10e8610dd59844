/**
 * dmapool/wasm: pools in a `WebAssembly.Memory`, for JavaScript and a module on the same blocks.
 *
 * `docs/wasm.md` is the guide: the region, growth, sharing with workers.
 *
 * @module dmapool/wasm
 * @packageDocumentation
 */
export { WasmMemoryError } from './error.ts';
export { WasmMemory, type WasmMemoryObject, type WasmMemoryOptions } from './memory.ts';
