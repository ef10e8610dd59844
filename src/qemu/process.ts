/**
 * The QEMU process: started with pipes only, watched, and ended whatever happens to us.
 *
 *     node --fd 3: qtest----------> qemu        no socket files, no pid files: pairs of connected sockets
 *          --fd 4: QMP------------> (its own session, so that Ctrl-C reaches us and not it)
 *          --fd 5: RAM, 6: firmware (memory files)
 *          --stdin--> sh: waits for the end of its input, then kills qemu
 *
 * QEMU goes on when its sockets close. So a shell waits at a pipe from us, which the kernel closes however we end, also
 * by SIGKILL, and ends QEMU then.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import type { Duplex, Writable } from 'node:stream';
import { QemuError } from './error.ts';

/** The most of QEMU's words that are kept: the last ones. */
const MAX_OUTPUT = 8192;
/** Milliseconds for QEMU to end after it was told to, before it is killed. */
const QUIT_TIME = 2000;
/** Milliseconds for a pipe of QEMU's to end after QEMU has: somebody that it started may have it, out of our reach. */
const PIPE_TIME = 500;
/**
 * Reads the process' number, waits for the end of input, kills its whole group: what is started may be a script that starts
 * QEMU. An empty number, of a start that failed, kills nothing.
 */
const WATCH = 'read -r pid; read -r rest; [ -n "$pid" ] && kill -s KILL -- "-$pid"';

/** The descriptors in the child. */
export const QTEST_FD = 3;
export const QMP_FD = 4;
export const RAM_FD = 5;
export const FIRMWARE_FD = 6;

export class QemuProcess {
  readonly #child: ChildProcess;
  #output = '';
  /** Settles when the process has ended: with how, in words. Never rejects. */
  readonly ended: Promise<string>;
  readonly qtest: Duplex;
  readonly qmp: Duplex;

  private constructor(child: ChildProcess, watchdog: ChildProcess) {
    this.#child = child;
    this.qtest = child.stdio[QTEST_FD] as Duplex;
    this.qmp = child.stdio[QMP_FD] as Duplex;
    for (const stream of [child.stdout!, child.stderr!]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        this.#output = (this.#output + text).slice(-MAX_OUTPUT);
      });
    }
    this.ended = endOf(child, watchdog);
  }

  /**
   * Starts QEMU. The descriptors may be closed once this has resolved.
   * @throws {@link QemuError} `ERR_DMAPOOL_QEMU_MISSING` when the program can't be started.
   */
  static async start(binary: string, args: readonly string[], ram: number, firmware: number): Promise<QemuProcess> {
    const watchdog = spawn('/bin/sh', ['-c', WATCH], { detached: true, stdio: ['pipe', 'ignore', 'ignore'] });
    try {
      await started(watchdog, '/bin/sh');
    } catch (error) {
      throw missing('/bin/sh', error);
    }
    const input: Writable = watchdog.stdin;
    // It is gone when QEMU is.
    input.on('error', () => undefined);
    try {
      const child = spawn(binary, args, {
        detached: true,
        stdio: ['ignore', 'pipe', 'pipe', 'pipe', 'pipe', ram, firmware],
      });
      if (child.pid !== undefined) input.write(`${String(child.pid)}\n`);
      await started(child, binary);
      return new QemuProcess(child, watchdog);
    } catch (error) {
      const ended = new Promise((resolve) => watchdog.once('exit', resolve));
      // False when it has ended already.
      if (watchdog.kill('SIGKILL')) await ended;
      throw missing(binary, error);
    }
  }

  /** Number of the process. */
  get pid(): number {
    return this.#child.pid!;
  }

  /** What QEMU said on its standard output and error so far. */
  get output(): string {
    return this.#output;
  }

  /** Ends the process at once. */
  kill(): void {
    if (this.#child.exitCode === null && this.#child.signalCode === null) killGroup(this.pid);
  }

  /** Resolves when the process has ended; it is killed if that takes too long. */
  async quit(): Promise<void> {
    const timer = setTimeout(() => {
      this.kill();
    }, QUIT_TIME);
    await this.ended;
    clearTimeout(timer);
  }
}

/** Resolves when both processes have ended: with how QEMU did, in words. */
async function endOf(child: ChildProcess, watchdog: ChildProcess): Promise<string> {
  const watchdogEnded = new Promise((resolve) => watchdog.once('exit', resolve));
  let timer: NodeJS.Timeout | undefined;
  child.once('exit', () => {
    // A script may be survived by what it started.
    killGroup(child.pid!);
    timer = setTimeout(() => {
      for (const stream of child.stdio) stream?.destroy();
    }, PIPE_TIME);
  });
  // `close`, not `exit`: by then all of its last words have been read.
  const how = await new Promise<string>((resolve) => {
    child.once('close', (code, signal) => {
      resolve(signal === null ? `ended with exit code ${String(code)}` : `was ended by ${signal}`);
    });
  });
  clearTimeout(timer);
  watchdog.kill('SIGKILL');
  await watchdogEnded;
  return how;
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // Nobody of it is left.
  }
}

function started(child: ChildProcess, name: string): Promise<void> {
  return new Promise((resolve, reject) => {
    child.once('spawn', resolve);
    child.once('error', (error) => {
      reject(new Error(`${name}: ${error.message}`, { cause: error }));
    });
  });
}

function missing(binary: string, error: unknown): QemuError {
  const { cause = error } = error as Error;
  const code = (cause as NodeJS.ErrnoException).code ?? 'unknown error';
  return new QemuError(
    'ERR_DMAPOOL_QEMU_MISSING',
    `can't start ${binary} (${code}); on Debian or Ubuntu: apt-get install --no-install-recommends qemu-system-x86`,
    '',
    { cause: error },
  );
}
