/** Resolves when `condition` holds; rejects after `patience` milliseconds with the name of the condition. */
export async function until(what: string, condition: () => boolean, patience = 5000): Promise<void> {
  const deadline = performance.now() + patience;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`still not after ${String(patience)} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}
