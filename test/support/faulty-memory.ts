import { type CoherentAllocator, type CoherentMemory, type CoherentRequest, HeapMemory } from 'dmapool';

/** A memory source that fails when told to, and counts. */
export class FaultyMemory implements CoherentAllocator {
  readonly name: string = 'faulty';
  readonly pageSize: number;
  readonly #memory: HeapMemory;
  /** Called before each allocation with its number; what it says happens. */
  onAlloc: (call: number, request: CoherentRequest) => 'ok' | 'none' | 'throw' = () => 'ok';
  onFree: () => 'ok' | 'throw' = () => 'ok';
  calls = 0;
  readonly live = new Set<CoherentMemory>();
  readonly requests: CoherentRequest[] = [];

  constructor(options: { limit?: number; pageSize?: number } = {}) {
    this.#memory = new HeapMemory(options);
    this.pageSize = this.#memory.pageSize;
  }

  allocCoherent(request: CoherentRequest): CoherentMemory | null {
    this.requests.push(request);
    const fate = this.onAlloc(this.calls++, request);
    if (fate === 'throw') throw new Error('the source broke');
    if (fate === 'none') return null;
    const memory = this.#memory.allocCoherent(request);
    if (memory !== null) this.live.add(memory);
    return memory;
  }

  freeCoherent(memory: CoherentMemory): void {
    this.#memory.freeCoherent(memory);
    this.live.delete(memory);
    if (this.onFree() === 'throw') throw new Error('the source broke while freeing');
  }

  onceAvailable(listener: () => void): () => void {
    return this.#memory.onceAvailable(listener);
  }
}
