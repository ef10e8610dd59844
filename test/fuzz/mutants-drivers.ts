/** Mutants of the code that controls DMA: the PCI function and the drivers. */
import type { Mutant } from './mutant.ts';

const STOP = 'src/pci/stop.ts';
const FUNCTION = 'src/pci/function.ts';
const RESET = 'src/pci/reset.ts';
const QUEUE = 'drivers/nvme/queue-pair.ts';
const DISPATCHER = 'drivers/nvme/dispatcher.ts';
const CONTROLLER = 'drivers/nvme/controller.ts';

function pci(file: string, name: string, from: string, to: string): Mutant {
  return { target: 'pci', file, name, from, to };
}

function nvme(file: string, name: string, from: string, to: string): Mutant {
  return { target: 'nvme', file, name, from, to };
}

export const mutants: readonly Mutant[] = [
  pci(
    STOP,
    'bus mastering that reads as on after it was cleared counts as off',
    'if ((after & PCI_COMMAND.busMaster) !== 0) {',
    'if ((after & PCI_COMMAND.busMaster) > 8) {',
  ),
  pci(
    STOP,
    'DMA in flight is not waited for',
    "if (settle === undefined || this.#driverStopped || !dmaPossible) return 'bus-master-off';",
    "if (settle === undefined || this.#timeout > 0) return 'bus-master-off';",
  ),
  pci(
    STOP,
    'an unsupported reset counts as a reset',
    'if (!(await this.#try(step, timeout, reset))) return false;',
    'await this.#try(step, timeout, reset);',
  ),
  pci(
    STOP,
    'a command register of all ones counts as a removed function',
    "if (await this.#isGone()) return 'gone';\n    this.#errors.push(",
    "if (this.#timeout > 0) return 'gone';\n    this.#errors.push(",
  ),
  pci(
    FUNCTION,
    'a proof holds after bus mastering was enabled again',
    'return (this.#proof = proofOf(reason, () => now === this.#enableCount));',
    'return (this.#proof = proofOf(reason, () => now <= this.#enableCount));',
  ),
  pci(
    FUNCTION,
    'close releases memory without a proof',
    'if (proof === null) {',
    'if (proof === null && this.device.bytesAllocated === 0) {',
  ),
  pci(
    RESET,
    'a reset restores bus mastering',
    'state.command & ~PCI_COMMAND.busMaster',
    'state.command | (0 & PCI_COMMAND.busMaster)',
  ),
  nvme(
    QUEUE,
    'an entry of the wrong phase is treated as new',
    'if (((last >>> 16) & 1) !== this.#phase) break;',
    'if (((last >>> 16) & 1) !== this.#phase && (last & 0xffff) === 0) break;',
  ),
  nvme(
    QUEUE,
    'the phase is not inverted when the completion queue wraps',
    '        this.#head = 0;\n        this.#phase ^= 1;',
    '        this.#head = 0;\n        this.#phase ^= 0;',
  ),
  nvme(
    QUEUE,
    'a completion of an earlier command in the same slot is accepted',
    'if (request?.cid !== cid) {',
    'if (request === null || request === undefined) {',
  ),
  nvme(
    QUEUE,
    'memory of commands that fail without proof is released',
    'for (const request of this.#slots) request?.reject(error);',
    'for (const request of this.#slots) if (request !== null) (this.#release(request, false), request.reject(error));',
  ),
  nvme(
    QUEUE,
    'the doorbell is rung before the command is written',
    'storeRelease32(words, at, command.opcode | (request.cid << 16));',
    'queueMicrotask(() => storeRelease32(words, at, command.opcode | (request.cid << 16)));',
  ),
  nvme(
    QUEUE,
    'the doorbell of a deleted completion queue is written',
    "if (reaped > 0 && this.state !== 'absent')",
    "if (reaped > 0 && this.state !== 'wrong')",
  ),
  nvme(
    DISPATCHER,
    'the memory of a command is released at its time-out',
    '    request.abortSent = true;\n',
    '    request.abortSent = true;\n    request.data?.unmap(false);\n',
  ),
  nvme(
    DISPATCHER,
    'a call for many transfers rejects at the first error, while others are in flight',
    'failure = { error };\n        done();',
    'reject(error);\n        done();',
  ),
  nvme(
    'drivers/nvme/prp.ts',
    'a PRP list is freed while its command is in flight',
    'into.prp2 = lists[0]!.dma;',
    'into.prp2 = lists[0]!.dma;\n    this.unmap(into);',
  ),
  nvme(
    'drivers/nvme/controller-registers.ts',
    'the controller is enabled before its queue addresses arrive',
    '    await bar.flush();\n',
    '    await Promise.resolve();\n',
  ),
  nvme(
    CONTROLLER,
    'the controller is restarted without being disabled',
    '    dispatcher.reset();\n    if (failure !== null) await this.#registers.resetFunction(failure, signal);',
    '    dispatcher.reset();\n    void failure;',
  ),
];
