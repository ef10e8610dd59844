/** The command's input and output, which tests replace. */

/** An output stream. */
export interface CliStream {
  write(text: string): void;
  /** True for a terminal: colours and a progress bar are enabled. */
  readonly isTTY: boolean;
  /** Width and height of the terminal in characters, if known. */
  readonly columns?: number | undefined;
  readonly rows?: number | undefined;
  /** Calls `listener` at each change of the terminal's size. Returns a function that ends this. */
  onResize?(listener: () => void): () => void;
}

/** Output streams and environment of one run. */
export interface CliIo {
  readonly stdout: CliStream;
  readonly stderr: CliStream;
  /** Environment variables, such as `NO_COLOR`. */
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Calls `listener` for each key press. Returns a function that ends this. Absent without a terminal. */
  onKey?(listener: (key: string) => void): () => void;
}

/** Exit codes. */
export const EXIT = { success: 0, failure: 1, usage: 2 } as const;

/** Ends the run with an exit code. A message is printed to stderr after the command's name, without a stack. */
export class CliExit extends Error {
  readonly exitCode: number;

  constructor(exitCode: number, message = '') {
    super(message);
    this.exitCode = exitCode;
  }
}

/** The streams of this process. A closed pipe (`| head`) ends the process silently. */
export function processIo(): CliIo {
  const io = { stdout: processStream(process.stdout), stderr: processStream(process.stderr), env: process.env };
  return process.stdin.isTTY ? { ...io, onKey: onTerminalKey } : io;
}

function onTerminalKey(listener: (key: string) => void): () => void {
  const { stdin } = process;
  const onText = (text: string): void => {
    // An escape sequence is one key. Other texts may have several keys.
    if (text.startsWith('\u001b')) listener(text);
    else for (const key of text) listener(key);
  };
  stdin.setRawMode(true).setEncoding('utf8').on('data', onText).resume();
  return () => {
    stdin.off('data', onText).setRawMode(false).pause();
  };
}

function processStream(
  stream: NodeJS.WritableStream & { isTTY?: boolean; columns?: number; rows?: number },
): CliStream {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(EXIT.success);
    process.stderr.write(`dmapool: write error: ${fileErrorMessage(error) ?? error.message}\n`);
    process.exit(EXIT.failure);
  });
  return {
    write: (text) => {
      stream.write(text);
    },
    isTTY: stream.isTTY === true,
    get columns(): number | undefined {
      // Some terminals report 0 for an unknown width.
      return stream.columns === 0 ? undefined : stream.columns;
    },
    get rows(): number | undefined {
      return stream.rows === 0 ? undefined : stream.rows;
    },
    onResize: (listener) => {
      stream.on('resize', listener);
      return () => {
        stream.off('resize', listener);
      };
    },
  };
}

/** The reason of a failed file operation, or null for other errors. */
export function fileErrorMessage(error: unknown): string | null {
  if (!(error instanceof Error) || !('code' in error) || !('syscall' in error)) return null;
  // `ENOENT: no such file or directory, open 'x'`
  return /^\w+: ([^,]+)/.exec(error.message)?.[1] ?? error.message;
}
