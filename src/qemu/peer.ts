/** What the two clients of QEMU's sockets have in common: whatever is at the other end may say anything. */

/** What a client tells its machine. */
export interface PeerEvents {
  /** QEMU does not answer. */
  readonly onHang: (message: string) => void;
  /** QEMU said what its protocol does not allow: nothing that it says can be trusted any more. */
  readonly onBroken: (message: string) => void;
  /** QEMU closed the connection. It does so at its end, which is told apart from here. */
  readonly onClosed: () => void;
}

/** The longest piece of a line that is quoted in a message, in characters. */
const QUOTE_LIMIT = 80;

/** A line as it should stand in a message: quoted, control characters visible, not too long. */
export function quote(line: string): string {
  return JSON.stringify(line.length > QUOTE_LIMIT ? `${line.slice(0, QUOTE_LIMIT)}...` : line);
}

/** True for what was an object in JSON. */
export function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
