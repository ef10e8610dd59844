import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The sources stay in the checkout: seen from dist/bench/peers/ they are here. */
const SOURCES = fileURLToPath(new URL('../../../bench/peers/', import.meta.url));

/** A compiled program in a temporary folder, which goes when this is disposed of. */
export class CompiledPeer implements Disposable {
  readonly path: string;
  readonly #folder: string;

  constructor(folder: string, path: string) {
    this.#folder = folder;
    this.path = path;
  }

  [Symbol.dispose](): void {
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/**
 * Compiles the C peer with `$CC`, or `cc`. Returns a line of text that says why where there is no compiler; throws
 * then if `DMAPOOL_REQUIRE_TOOLS=1`, and always if the compiler refuses the program.
 */
export function compileIntrusivePool(): CompiledPeer | string {
  const compiler = process.env['CC'] ?? 'cc';
  if (spawnSync(compiler, ['--version'], { stdio: 'ignore' }).status !== 0) {
    const message = `no C compiler (${compiler}): the C peer is left out; install gcc or clang, or set CC`;
    if (process.env['DMAPOOL_REQUIRE_TOOLS'] === '1') throw new Error(message);
    return message;
  }
  const folder = mkdtempSync(join(tmpdir(), 'dmapool-peer-'));
  const path = join(folder, 'intrusive-bench');
  // Two translation units and no link-time optimization: the pool is called, as a kernel's is by a driver's module.
  const sources = ['intrusive-pool.c', 'intrusive-bench.c'].map((name) => join(SOURCES, name));
  const { status, stderr } = spawnSync(compiler, ['-std=c11', '-O2', '-pthread', '-o', path, ...sources], {
    encoding: 'utf8',
  });
  if (status !== 0) {
    rmSync(folder, { recursive: true, force: true });
    throw new Error(`${compiler} failed on the C peer:\n${stderr}`);
  }
  return new CompiledPeer(folder, path);
}
