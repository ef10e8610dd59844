import { DmaError } from '../errors.ts';

/**
 * The `WebAssembly.Memory` grew and detached its buffer, with every view of it. Blocks of the pools can't be accessed any
 * more. A shared memory, or one whose `maximum` equals its size, never does that.
 */
export class WasmMemoryError extends DmaError {
  declare readonly code: 'ERR_DMAPOOL_WASM_DETACHED';

  constructor(message: string) {
    super('ERR_DMAPOOL_WASM_DETACHED', message);
  }
}
