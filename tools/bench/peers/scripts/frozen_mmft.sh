# Frozen encoders, classification: what they compute is kept in the store of frozen work.
mmft train name=peer paths.runs="$OUT/model" seed="$SEED" trainer.max_epochs="$EPOCHS" \
    data.train="$ROWS/train.csv" data.val="$ROWS/val.csv" \
    data.columns.image=image data.columns.text=title data.columns.label=label data.columns.id=id \
    model.image_encoder.name="$IMAGE_ENCODER" model.image_encoder.image_size=112 \
    model.text_encoder.name="$TEXT_ENCODER" model.text_encoder.max_length=32 \
    tune=head_only report=false modality_report=false
mmft predict run=last paths.runs="$OUT/model" data.path="$ROWS/test.csv" out="$OUT/answers.csv"
