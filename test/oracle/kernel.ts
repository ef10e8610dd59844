/** The kernel's side: a virtual machine with the module, which stays up until it is closed. */
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
/** Milliseconds that a machine may stay up: the longest comparison takes hours. */
const LONGEST = 24 * 3_600_000;
/** Lines on their way at a time. What the guest's pipes hold must not fill up with answers that nobody reads. */
const WINDOW = 512;

/** The living kernel's `dma_pool`. */
export class KernelOracle {
  readonly #input: PassThrough = new PassThrough();
  readonly #machine: Promise<VmResult>;
  readonly #waiting: ((line: string | Error) => void)[] = [];
  #rest = '';

  private constructor(module: string, kernel: KernelSeries, say: (line: string) => void) {
    const script = `insmod ${module} && { cat ${DEVICE} & exec cat >${DEVICE}; }`;
    this.#machine = runInVm({
      command: ['sh', '-c', script],
      kernel,
      iommu: false,
      cpus: 1,
      timeout: LONGEST,
      // With memory zeroed by the page allocator, zalloc would prove nothing; and the console is slow.
      kernelArguments: ['init_on_alloc=0', 'loglevel=0'],
      stdin: this.#input,
      onOutput: (stream, data) => {
        if (stream === 'stdout') this.#receive(data.toString('latin1'));
      },
      onMessage: say,
    });
    const end = (why: string): void => {
      for (const waiting of this.#waiting.splice(0)) waiting(new Error(`the machine with the kernel ended: ${why}`));
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
  static async open(kernel: KernelSeries, say: (line: string) => void): Promise<KernelOracle> {
    const found = cachedKernel(kernel) ?? (await fetchKernel(kernel, say));
    await fetchHeaders(found, say);
    const folder = mkdtempSync(join(tmpdir(), 'dmapool-oracle-'));
    try {
      const module = await buildModule(found, MODULE, 'dmapool_oracle', folder);
      const oracle = new KernelOracle(module, kernel, say);
      await oracle.#ask('z');
      return oracle;
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  }

  /** The hashes of a stream, one for each {@link CHUNK} operations. All are on their way when it returns. */
  stream(seed: number, operations: number): Promise<string>[] {
    const hashes = Array.from({ length: Math.ceil(operations / CHUNK) }, () => this.#answer());
    this.#input.write(`s ${seed} ${operations}\n`);
    return hashes;
  }

  /** Carries out these operations, afresh, and spells out the answers. */
  async answers(operations: readonly Operation[]): Promise<string[]> {
    await this.#ask('z');
    const answers: string[] = [];
    for (let i = 0; i < operations.length; i += WINDOW) {
      answers.push(...(await Promise.all(operations.slice(i, i + WINDOW).map((each) => this.#ask(moduleLine(each))))));
    }
    return answers;
  }

  /** Ends the machine. */
  async close(): Promise<void> {
    this.#input.end();
    await this.#machine;
  }

  #ask(line: string): Promise<string> {
    const answer = this.#answer();
    this.#input.write(`${line}\n`);
    return answer;
  }

  #answer(): Promise<string> {
    const answer = new Promise<string>((resolve, reject) => {
      this.#waiting.push((line) => {
        if (typeof line !== 'string') reject(line);
        else if (/what\?|exhausted/.test(line)) reject(new Error(`the module says ${line}`));
        else resolve(line.trimEnd());
      });
    });
    // Hashes are awaited one by one; the first that fails tells enough.
    answer.catch(() => undefined);
    return answer;
  }

  #receive(text: string): void {
    const lines = (this.#rest + text).split('\n');
    this.#rest = lines.pop()!;
    for (const line of lines) this.#waiting.shift()?.(line);
  }
}
