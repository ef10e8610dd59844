/** The kernel's side of the comparison: a virtual machine with the module. It runs until `close`. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { buildModule, fetchHeaders } from '../../scripts/vm/headers.ts';
import { cachedKernel, fetchKernel, type KernelSeries } from '../../scripts/vm/kernel.ts';
import { runInVm, type VmResult } from '../../scripts/vm/run.ts';
import { CHUNK, moduleLine, type Operation } from './operation.ts';

const MODULE = fileURLToPath(new URL('../../../test/oracle/module/', import.meta.url));
const DEVICE = '/dev/dmapool_oracle';
/** Time limit of a machine in milliseconds. The longest comparison takes hours. */
const TIMEOUT = 24 * 3_600_000;
/** Maximum number of lines in flight. More would fill the guest's pipes with unread answers, and block it. */
const WINDOW = 512;

/** The `dma_pool` of a running kernel. */
export class KernelOracle {
  readonly #input: PassThrough = new PassThrough();
  readonly #machine: Promise<VmResult>;
  readonly #waiters: ((line: string | Error) => void)[] = [];
  #rest = '';

  private constructor(module: string, kernel: KernelSeries, log: (line: string) => void) {
    const script = `insmod ${module} && { cat ${DEVICE} & exec cat >${DEVICE}; }`;
    this.#machine = runInVm({
      command: ['sh', '-c', script],
      kernel,
      iommu: false,
      cpus: 1,
      timeout: TIMEOUT,
      // Without init_on_alloc, the page allocator returns dirty memory, so that zalloc is tested. The console is slow.
      kernelArguments: ['init_on_alloc=0', 'loglevel=0'],
      stdin: this.#input,
      onOutput: (stream, data) => {
        if (stream === 'stdout') this.#receive(data.toString('latin1'));
      },
      onMessage: log,
    });
    const end = (reason: string): void => {
      for (const settle of this.#waiters.splice(0)) settle(new Error(`the machine with the kernel ended: ${reason}`));
    };
    this.#machine.then(
      ({ stderr }) => {
        end(stderr);
      },
      (error: unknown) => {
        end(String(error));
      },
    );
  }

  /** Builds the module, starts the machine and loads it. */
  static async open(kernel: KernelSeries, log: (line: string) => void): Promise<KernelOracle> {
    const found = cachedKernel(kernel) ?? (await fetchKernel(kernel, log));
    await fetchHeaders(found, log);
    const folder = mkdtempSync(join(tmpdir(), 'dmapool-oracle-'));
    try {
      const module = await buildModule(found, MODULE, 'dmapool_oracle', folder);
      const oracle = new KernelOracle(module, kernel, log);
      await oracle.#request('z');
      return oracle;
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  }

  /** Starts a stream in the kernel. Returns its hashes, one per {@link CHUNK} operations. */
  stream(seed: number, operations: number): Promise<string>[] {
    const hashes = Array.from({ length: Math.ceil(operations / CHUNK) }, () => this.#nextLine());
    this.#input.write(`s ${seed} ${operations}\n`);
    return hashes;
  }

  /** Resets the module, executes operations, and returns the answers as text. */
  async answers(operations: readonly Operation[]): Promise<string[]> {
    await this.#request('z');
    const answers: string[] = [];
    for (let i = 0; i < operations.length; i += WINDOW) {
      const window = operations.slice(i, i + WINDOW);
      answers.push(...(await Promise.all(window.map((each) => this.#request(moduleLine(each))))));
    }
    return answers;
  }

  /** Shuts down the machine. */
  async close(): Promise<void> {
    this.#input.end();
    await this.#machine;
  }

  #request(line: string): Promise<string> {
    const answer = this.#nextLine();
    this.#input.write(`${line}\n`);
    return answer;
  }

  #nextLine(): Promise<string> {
    const answer = new Promise<string>((resolve, reject) => {
      this.#waiters.push((line) => {
        if (typeof line !== 'string') reject(line);
        else if (/invalid|exhausted/.test(line)) reject(new Error(`the module reports: ${line}`));
        else resolve(line.trimEnd());
      });
    });
    // Hashes are awaited one by one. After a rejection, the others have no handler.
    answer.catch(() => undefined);
    return answer;
  }

  #receive(text: string): void {
    const lines = (this.#rest + text).split('\n');
    this.#rest = lines.pop()!;
    for (const line of lines) this.#waiters.shift()?.(line);
  }
}
