import { PerformanceObserver } from 'node:perf_hooks';
import { setImmediate } from 'node:timers/promises';
import { getHeapStatistics } from 'node:v8';

/** Bytes in objects on the JavaScript heap, dead ones included: between two collections it only grows. */
export function usedHeapBytes(): number {
  return getHeapStatistics().used_heap_size;
}

/** Where a probe's objects stay reachable, so that no engine may leave them out. */
const probe: unknown[] = new Array<unknown>(1000).fill(null);

/**
 * Whether {@link usedHeapBytes} sees objects at once, to their size. V8's does; where a runtime's only moves now and
 * then, "no growth" would mean nothing.
 */
export function seesAllocations(): boolean {
  const before = usedHeapBytes();
  for (let i = 0; i < probe.length; i++) probe[i] = { i };
  const growth = usedHeapBytes() - before;
  probe.fill(null);
  // From an object of two words to one with the engine's spare fields; unless a collection came in between.
  return growth >= probe.length * 12 && growth <= probe.length * 100;
}

interface Span {
  readonly start: number;
  readonly end: number;
}

/**
 * Remembers when garbage was collected. A reading of the heap across a collection says nothing about what was
 * allocated meanwhile, so such readings have to be left out.
 */
export class CollectionWatch implements Disposable {
  readonly #spans: Span[] = [];
  readonly #observer: PerformanceObserver;

  constructor() {
    this.#observer = new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) {
        this.#spans.push({ start: entry.startTime, end: entry.startTime + entry.duration });
      }
    });
    this.#observer.observe({ entryTypes: ['gc'] });
  }

  /** Entries come on the event loop, so let it turn: after this `collectedWithin` knows all that happened before. */
  async settle(): Promise<void> {
    await setImmediate();
    await setImmediate();
  }

  /** Whether a collection ran at any time between two readings of `performance.now()`. */
  collectedWithin(start: number, end: number): boolean {
    return this.#spans.some((span) => span.start <= end && span.end >= start);
  }

  [Symbol.dispose](): void {
    this.#observer.disconnect();
  }
}
