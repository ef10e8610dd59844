/** Mutants of the EHCI and e1000 drivers: memory is freed too early or never. */
import type { Mutant } from './mutant.ts';

const E1000 = 'drivers/e1000/e1000.ts';
const RECEIVE = 'drivers/e1000/receive.ts';
const TRANSMIT = 'drivers/e1000/transmit.ts';
const QUEUE = 'drivers/ehci/queue.ts';
const SCHEDULE = 'drivers/ehci/schedule.ts';
const STRUCTURES = 'drivers/ehci/structures.ts';

function e1000(file: string, name: string, from: string, to: string): Mutant {
  return { target: 'e1000', file, name, from, to };
}

function ehci(file: string, name: string, from: string, to: string): Mutant {
  return { target: 'ehci', file, name, from, to };
}

export const mutants: readonly Mutant[] = [
  e1000(RECEIVE, 'a packet that the user received stays in the ring', 'index = fresh;', 'void fresh;'),
  e1000(RECEIVE, 'a refilled descriptor keeps its done bit', 'words[at + 3] = 0;', 'words[at + 3] = words[at + 3]!;'),
  e1000(
    RECEIVE,
    'a length above the maximum packet size is accepted',
    'length <= MAX_PACKET_BYTES;',
    'length <= 16 * MAX_PACKET_BYTES;',
  ),
  e1000(
    TRANSMIT,
    'buffers are freed before they are sent',
    'if ((status & TX.done) === 0) break;',
    'if ((status & TX.done) > 1) break;',
  ),
  e1000(
    E1000,
    'a detach releases memory while the card may do DMA',
    'if (proof !== null) this.#release(proof);\n    return',
    'this.#release(proof ?? ({ holds: true } as DmaStopped));\n    return',
  ),
  ehci(
    SCHEDULE,
    'the schedule is enabled before its address arrives',
    '      await this.#registers.flush();\n      if',
    '      await Promise.resolve();\n      if',
  ),
  ehci(
    SCHEDULE,
    'one doorbell cycle is treated as sufficient',
    'const DOORBELL_CYCLES = 2;',
    'const DOORBELL_CYCLES = 1;',
  ),
  ehci(
    SCHEDULE,
    'an active queue head is freed before its overlay is idle',
    'if (wasActive || isActive(qh)) await',
    'if (wasActive && this.#freed) await',
  ),
  ehci(
    QUEUE,
    'a transfer to the device with bytes left is treated as complete',
    'if (left > given || (left > 0 && request.pid === PID.out)) return',
    'if (left > given) return',
  ),
  ehci(
    SCHEDULE,
    'the last queue head is freed before the schedule has stopped',
    'if (this.#ring.length === 0) await this.#stop();',
    'if (this.#ring.length === 0) void this.#stop().catch(() => undefined);',
  ),
  ehci(STRUCTURES, 'the end of a queue may be active', 'words.fill(0, 0, QTD.words);', 'words.fill(0, 0, QTD.token);'),
];
