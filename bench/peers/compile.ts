import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The C sources in the checkout, relative to dist/bench/peers/. */
const SOURCES = fileURLToPath(new URL('../../../bench/peers/', import.meta.url));

/** A compiled program in a temporary folder. Disposal removes the folder. */
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

function has(program: string): boolean {
  return spawnSync(program, ['--version'], { stdio: 'ignore' }).status === 0;
}

/** Returns the message in place of a peer. Throws if `DMAPOOL_REQUIRE_TOOLS=1`. */
function missing(message: string): string {
  if (process.env['DMAPOOL_REQUIRE_TOOLS'] === '1') throw new Error(message);
  return message;
}

function compile(what: string, compiler: string, sources: readonly string[], flags: readonly string[]): CompiledPeer {
  const folder = mkdtempSync(join(tmpdir(), 'dmapool-peer-'));
  const path = join(folder, 'peer');
  const files = sources.map((name) => join(SOURCES, name));
  const { status, stderr } = spawnSync(compiler, ['-O2', '-o', path, ...files, ...flags], { encoding: 'utf8' });
  if (status !== 0) {
    rmSync(folder, { recursive: true, force: true });
    throw new Error(`${compiler} failed on ${what}:\n${stderr}`);
  }
  return new CompiledPeer(folder, path);
}

/**
 * Compiles the C peer with `$CC`, or `cc`. Without a compiler it returns the reason, or throws if
 * `DMAPOOL_REQUIRE_TOOLS=1`. Throws if compilation fails.
 */
export function compileIntrusivePool(): CompiledPeer | string {
  return compileWithPool('intrusive-bench.c');
}

/** Compiles the C peer's replay of recordings, as {@link compileIntrusivePool}. Without its lock it is for one thread. */
export function compileReplay(lock: boolean): CompiledPeer | string {
  return compileWithPool('intrusive-replay.c', ...(lock ? [] : ['-DWITHOUT_LOCK']));
}

function compileWithPool(main: string, ...flags: readonly string[]): CompiledPeer | string {
  const compiler = process.env['CC'] ?? 'cc';
  if (!has(compiler)) {
    return missing(`no C compiler (${compiler}): the C peer is skipped; install gcc or clang, or set CC`);
  }
  // Two translation units without link-time optimization: calls cross a module border, as in a kernel.
  return compile('the C peer', compiler, ['intrusive-pool.c', main], ['-std=c11', '-pthread', ...flags]);
}

/** Compiles the DPDK peer, as {@link compileIntrusivePool}; also handles missing DPDK. */
export function compileMempool(): CompiledPeer | string {
  const compiler = process.env['CC'] ?? 'cc';
  const { status, stdout } = spawnSync('pkg-config', ['--cflags', '--libs', 'libdpdk'], { encoding: 'utf8' });
  if (!has(compiler) || status !== 0) {
    return missing(
      `no DPDK (pkg-config libdpdk): rte_mempool is skipped; on Debian, apt install gcc pkg-config libdpdk-dev`,
    );
  }
  return compile('the DPDK peer', compiler, ['mempool-bench.c'], ['-std=gnu11', ...stdout.trim().split(/\s+/)]);
}
