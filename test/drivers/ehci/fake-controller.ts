/** An EHCI controller on a fake PCI function. */
import type { InterruptKind } from 'dmapool/pci';
import { ModelFunction } from '../model-function.ts';
import type { EhciModel } from './model-ehci.ts';

export class FakeController extends ModelFunction<EhciModel> {
  constructor(model: EhciModel, kind: InterruptKind | null) {
    super(model, kind);
    this.config.setUint32(8, 0x0c03_2010, true);
  }
}
