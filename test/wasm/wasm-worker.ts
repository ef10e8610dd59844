/** Attaches to the pool, and adds to a word of a block with the module. */
import { parentPort, workerData } from 'node:worker_threads';
import { attachPool, type SharedPoolHandle } from 'dmapool/shared';

interface Start {
  readonly handle: SharedPoolHandle;
  readonly memory: object;
  readonly module: Uint8Array;
  readonly rounds: number;
}

const { WebAssembly: engine } = globalThis as unknown as {
  WebAssembly: {
    readonly Module: new (bytes: Uint8Array) => object;
    readonly Instance: new (module: object, imports: object) => { exports: { add(at: number, n: number): number } };
  };
};

const { handle, memory, module, rounds } = workerData as Start;
const shared = attachPool(handle);
const instance = new engine.Instance(new engine.Module(module), { env: { memory } });

parentPort!.on('message', ({ pointer, ticket }: { pointer: number; ticket: number }) => {
  const block = shared.accept(ticket);
  if (block.dma !== pointer) throw new Error('the block has another pointer here');
  for (let i = 0; i < rounds; i++) instance.exports.add(block.dma, 1);
  parentPort!.postMessage(shared.transfer(block));
});
